-- How much of a run's life on a node is covered by known energy, and by what kind of meter.
-- Grain: (cluster, node, run_key). life_ns x zones are the counter-seconds that should be known, known_ns those that are;
-- zones is 0 where no counter of the node covers the run at all.
create or replace view run_coverage as
with covered as (
    select
        r.cluster, r.node, r.run_key, i.zone, i.method,
        sum(
            case when i.energy_uj is null then 0 else least(r.ended_ns, i.ended_ns) - greatest(r.began_ns, i.began_ns) end
        ) as known_ns
    from stg_run as r
    inner join interval_energy as i
        on
            r.cluster = i.cluster and r.node = i.node and r.boot_id = i.boot_id
            and r.began_ns < i.ended_ns and r.ended_ns > i.began_ns
    group by r.cluster, r.node, r.run_key, i.zone, i.method
),

summed as (
    select
        cluster, node, run_key,
        count(*) as zones,
        sum(known_ns) as known_ns,
        max(case when method = 'modelled' then 1 else 0 end) as is_modelled,
        max(case when method = 'integrated' then 1 else 0 end) as is_integrated
    from covered
    group by cluster, node, run_key
)

select
    r.cluster,
    r.node,
    r.run_key,
    r.ended_ns - r.began_ns as life_ns,
    coalesce(s.zones, 0) as zones,
    cast(coalesce(s.known_ns, 0) as bigint) as known_ns,
    coalesce(s.is_modelled, 0) = 1 as is_modelled,
    coalesce(s.is_integrated, 0) = 1 as is_integrated
from stg_run as r
left join summed as s on r.cluster = s.cluster and r.node = s.node and r.run_key = s.run_key;
