-- Power of a counter while no run was on the node: what a calibration is made from.
-- Grain: (cluster, node, zone). idle_uw: 5th percentile over intervals of a second or more; seconds and intervals say
-- how much it rests on.
create or replace view idle_power as
with empty as (
    select
        i.cluster, i.node, i.zone, i.ended_us - i.began_us as elapsed_us,
        mul_div(i.energy_uj, 1000000, i.ended_us - i.began_us) as power_uw
    from interval_energy as i
    where
        i.energy_uj is not null
        and not i.is_hole
        and i.ended_us - i.began_us >= 1000000
        and not exists (
            select 1 from stg_run as r
            where
                r.cluster = i.cluster and r.node = i.node and r.boot_id = i.boot_id
                and r.began_ns < i.ended_ns and r.ended_ns > i.began_ns
        )
)

select
    cluster,
    node,
    zone,
    quantile_disc(power_uw, 0.05) as idle_uw,
    count(*) as intervals,
    cast(sum(elapsed_us) as bigint) // 1000000 as seconds
from empty
group by cluster, node, zone;
