-- Within one boot without unknown intervals, the intervals add up to last reading - first reading + wraps x range.
-- Worked out from the readings alone, so that a fault in the interval rule or in the cutting at slots shows here.
with ordered as (
    select
        *,
        lag(counter_uj) over (partition by cluster, node, boot_id, zone order by boottime_ns) as before_uj
    from stg_reading
),

counter as (
    select
        cluster, node, boot_id, zone,
        arg_max(counter_uj, boottime_ns) - arg_min(counter_uj, boottime_ns)
        + sum(case when counter_uj < before_uj then wrap_uj else 0 end) as moved_uj
    from ordered
    group by cluster, node, boot_id, zone
),

summed as (
    select
        cluster, node, boot_id, zone,
        cast(sum(energy_uj) as decimal(38, 0)) as energy_uj,
        sum(case when energy_uj is null and not reason like '%started again%' then 1 else 0 end) as unknown_pieces
    from interval_energy
    where pool <> 'rest' -- the rest is a difference: see components_and_rest_add_up_to_the_node_meter
    group by cluster, node, boot_id, zone
)

select c.cluster, c.node, c.boot_id, c.zone, c.moved_uj, s.energy_uj
from counter as c
inner join summed as s on c.cluster = s.cluster and c.node = s.node and c.boot_id = s.boot_id and c.zone = s.zone
where s.unknown_pieces = 0 and s.energy_uj is not null and c.moved_uj <> s.energy_uj
