-- Energy and emissions of a run in one base slot, over all its nodes of one region.
-- Grain: (cluster, run_id, region, slot_at_utc). Energies in microjoules; co2e_g is null where a part has no factor, and
-- known_uj is the energy that has one.
create or replace view run_slot as
select
    c.cluster,
    r.run_id,
    c.region,
    c.slot_at_utc,
    cast(sum(c.energy_uj) as decimal(38, 0)) as energy_uj,
    cast(sum(case when c.pool = 'cpu' then c.energy_uj end) as decimal(38, 0)) as cpu_uj,
    cast(sum(case when c.pool = 'dram' then c.energy_uj end) as decimal(38, 0)) as dram_uj,
    cast(sum(case when c.pool = 'gpu' then c.energy_uj end) as decimal(38, 0)) as gpu_uj,
    cast(sum(case when c.pool = 'rest' then c.energy_uj end) as decimal(38, 0)) as rest_uj,
    cast(sum(c.own_use_uj) as decimal(38, 0)) as own_use_uj,
    cast(sum(c.own_idle_uj) as decimal(38, 0)) as own_idle_uj,
    cast(sum(c.system_share_uj) as decimal(38, 0)) as system_share_uj,
    cast(sum(case when c.co2e_g is not null then c.energy_uj else 0 end) as decimal(38, 0)) as known_uj,
    sum(c.co2e_g) as co2e_g
from slot_carbon as c
inner join stg_run as r on c.cluster = r.cluster and c.node = r.node and c.run_key = r.run_key
where c.account = 'job'
group by c.cluster, r.run_id, c.region, c.slot_at_utc;
