-- Every known microjoule of every counter is booked exactly once, per node and hour.
select
    coalesce(i.cluster, b.cluster) as cluster,
    coalesce(i.node, b.node) as node,
    coalesce(i.zone, b.zone) as zone,
    coalesce(i.hour_at_utc, b.hour_at_utc) as hour_at_utc,
    i.counter_uj,
    b.booked_uj,
    i.evidence
from (
    select
        i.cluster, i.node, i.zone, date_trunc('hour', i.slot_at_utc) as hour_at_utc,
        cast(sum(i.energy_uj) as decimal(38, 0)) as counter_uj,
        min(s.file || ':' || i.line) as evidence
    from interval_energy as i
    inner join segment as s
        on
            i.cluster = s.cluster and i.node = s.node and i.boot_id = s.boot_id
            and i.sampler_run = s.sampler_run and i.seq = s.seq
    where i.energy_uj is not null
    group by i.cluster, i.node, i.zone, date_trunc('hour', i.slot_at_utc)
) as i
full outer join (
    select
        cluster, node, zone, date_trunc('hour', slot_at_utc) as hour_at_utc,
        cast(sum(energy_uj) as decimal(38, 0)) as booked_uj
    from booking
    group by cluster, node, zone, date_trunc('hour', slot_at_utc)
) as b
    on i.cluster = b.cluster and i.node = b.node and i.zone = b.zone and i.hour_at_utc = b.hour_at_utc
where i.counter_uj is distinct from b.booked_uj
