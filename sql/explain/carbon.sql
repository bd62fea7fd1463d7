-- From the run's energy to its grams: the factor, its vintage and the PUE of each region.
select
    c.region, g.grid_zone, c.factor_set, c.factor_kind, c.factor_year, f.source, f.digest,
    cast(c.intensity_g_per_kwh as double) as intensity_g_per_kwh,
    cast(c.pue as double) as pue,
    count(distinct c.slot_at_utc) as slots,
    cast(sum(c.energy_uj) as decimal(38, 0)) as energy_uj,
    sum(c.co2e_g) as co2e_g
from slot_carbon as c
inner join stg_run as r on c.cluster = r.cluster and c.node = r.node and c.run_key = r.run_key
left join region as g on c.region = g.region
left join factor_set as f on c.factor_set = f.factor_set
where r.cluster = $cluster and r.run_id = $run_id
group by
    c.region, g.grid_zone, c.factor_set, c.factor_kind, c.factor_year, f.source, f.digest, c.intensity_g_per_kwh, c.pue
order by c.region, c.factor_year
