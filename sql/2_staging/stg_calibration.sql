-- Idle power of a counter and from when to when it holds. Grain: (cluster, node, zone, valid_from_utc).
create or replace view stg_calibration as
select
    cluster,
    node,
    zone,
    valid_from_utc,
    coalesce(
        lead(valid_from_utc) over (partition by cluster, node, zone order by valid_from_utc),
        timestamp '9999-01-01 00:00:00'
    ) as valid_to_utc,
    idle_uw
from calibration;
