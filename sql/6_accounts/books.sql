-- The books of a node in one base slot: what its counters counted and to whom it was booked.
-- Grain: (cluster, node, region, slot_at_utc). counter_uj comes from the counters, not from the bookings: that they agree
-- is checked, not assumed. unknown_seconds: time of counters without known energy, averaged over them.
create or replace view books as
with counted as (
    select
        cluster, node, slot_at_utc,
        sum(energy_uj) as counter_uj,
        sum(ended_us - began_us) / 1e6 as counter_seconds,
        sum(case when energy_uj is null then ended_us - began_us else 0 end) / 1e6 as unknown_counter_seconds,
        count(distinct zone) as zones
    from interval_energy
    group by cluster, node, slot_at_utc
),

booked as (
    select
        cluster, node, region, slot_at_utc,
        sum(case when account = 'job' then energy_uj else 0 end) as jobs_uj,
        sum(case when account = 'unallocated' then energy_uj else 0 end) as unallocated_uj,
        sum(case when account = 'system' then energy_uj else 0 end) as system_uj,
        sum(case when account = 'gap' then energy_uj else 0 end) as gap_uj,
        sum(case when co2e_g is not null then energy_uj else 0 end) as known_uj,
        sum(co2e_g) as co2e_g,
        sum(case when account = 'job' then co2e_g end) as jobs_co2e_g,
        max(case when method = 'modelled' then 1 else 0 end) = 1 as is_modelled
    from slot_carbon
    group by cluster, node, region, slot_at_utc
)

select
    c.cluster,
    c.node,
    coalesce(b.region, r.region) as region,
    c.slot_at_utc,
    cast(coalesce(c.counter_uj, 0) as decimal(38, 0)) as counter_uj,
    cast(coalesce(b.jobs_uj, 0) as decimal(38, 0)) as jobs_uj,
    cast(coalesce(b.unallocated_uj, 0) as decimal(38, 0)) as unallocated_uj,
    cast(coalesce(b.system_uj, 0) as decimal(38, 0)) as system_uj,
    cast(coalesce(b.gap_uj, 0) as decimal(38, 0)) as gap_uj,
    cast(coalesce(b.known_uj, 0) as decimal(38, 0)) as known_uj,
    b.co2e_g,
    b.jobs_co2e_g,
    coalesce(b.is_modelled, false) as is_modelled,
    c.counter_seconds / nullif(c.zones, 0) as seconds,
    c.unknown_counter_seconds / nullif(c.zones, 0) as unknown_seconds
from counted as c
left join booked as b on c.cluster = b.cluster and c.node = b.node and c.slot_at_utc = b.slot_at_utc
left join node_region as r on c.cluster = r.cluster and c.node = r.node;
