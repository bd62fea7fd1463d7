-- Energy and its emissions per slot, location-based.
-- Grain: (cluster, node, zone, slot_at_utc, account, run_key). co2e_g = energy x PUE x intensity, rounded once, here, to
-- 9 decimals; null where the node has no region or the region no factor. factor_year: the vintage of a yearly factor.
create or replace view slot_carbon as
with slotted as (
    select
        cluster, node, zone, meter, method, pool, slot_at_utc, account, run_key,
        cast(sum(energy_uj) as bigint) as energy_uj,
        cast(sum(own_use_uj) as bigint) as own_use_uj,
        cast(sum(own_idle_uj) as bigint) as own_idle_uj,
        cast(sum(system_share_uj) as bigint) as system_share_uj
    from booking
    group by cluster, node, zone, meter, method, pool, slot_at_utc, account, run_key
),

-- The latest yearly factor that is not newer than the slot's own year.
yearly as (
    select
        g.region, s.slot_at_utc, i.year as factor_year, i.factor_set, i.kind, i.intensity_g_per_kwh
    from region as g
    cross join slot as s
    inner join intensity as i
        on g.factor_set = i.factor_set and g.grid_zone = i.grid_zone and i.kind like 'location-%'
    where i.year > 0 and i.year <= cast(strftime(s.slot_at_utc, '%Y') as integer)
    qualify row_number() over (partition by g.region, s.slot_at_utc order by i.year desc) = 1
),

site_pue as (
    select
        region,
        from_utc,
        coalesce(
            lead(from_utc) over (partition by region order by from_utc), timestamp '9999-01-01 00:00:00'
        ) as to_utc,
        pue
    from pue
)

select
    e.cluster,
    e.node,
    e.zone,
    e.meter,
    e.method,
    e.pool,
    e.slot_at_utc,
    e.account,
    e.run_key,
    r.region,
    e.energy_uj,
    e.own_use_uj,
    e.own_idle_uj,
    e.system_share_uj,
    p.pue,
    y.factor_set,
    y.kind as factor_kind,
    y.factor_year,
    y.intensity_g_per_kwh,
    -- g = uJ / 3.6e12 x g/kWh x PUE; in 10^-9 g, with intensity and PUE in millionths: / 3.6e15
    cast(
        mul_div_round(
            cast(e.energy_uj as hugeint) * cast(y.intensity_g_per_kwh * 1000000 as bigint),
            cast(p.pue * 1000000 as bigint),
            3600000000000000
        ) as decimal(28, 0)
    ) * cast(0.000000001 as decimal(9, 9)) as co2e_g
from slotted as e
left join node_region as r on e.cluster = r.cluster and e.node = r.node
left join yearly as y on r.region = y.region and e.slot_at_utc = y.slot_at_utc
left join site_pue as p on r.region = p.region and e.slot_at_utc >= p.from_utc and e.slot_at_utc < p.to_utc;
