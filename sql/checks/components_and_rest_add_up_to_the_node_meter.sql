-- Within one boot, all zones of a node with a node meter add up to what that meter counted, if nothing is unknown.
-- The meter's figure is worked out from its readings alone.
with ordered as (
    select
        *,
        lag(counter_uj) over (partition by cluster, node, boot_id, zone order by boottime_ns) as before_uj
    from stg_reading
    where domain = 'node'
),

meter as (
    select
        cluster, node, boot_id, zone,
        min(boottime_ns) as first_ns,
        max(boottime_ns) as last_ns,
        arg_max(counter_uj, boottime_ns) - arg_min(counter_uj, boottime_ns)
        + sum(case when counter_uj < before_uj then wrap_uj else 0 end) as moved_uj
    from ordered
    group by cluster, node, boot_id, zone
),

booked as (
    select
        m.cluster, m.node, m.boot_id,
        cast(sum(i.energy_uj) as decimal(38, 0)) as energy_uj,
        sum(case when i.energy_uj is null and i.pool = 'rest' then 1 else 0 end) as unknown_pieces
    from meter as m
    inner join interval_energy as i
        on m.cluster = i.cluster and m.node = i.node and m.boot_id = i.boot_id
    where i.reading_ended_ns > m.first_ns and i.reading_ended_ns <= m.last_ns
    group by m.cluster, m.node, m.boot_id
)

select m.cluster, m.node, m.boot_id, m.zone, m.moved_uj, b.energy_uj
from meter as m
inner join booked as b on m.cluster = b.cluster and m.node = b.node and m.boot_id = b.boot_id
where b.unknown_pieces = 0 and m.moved_uj <> b.energy_uj
