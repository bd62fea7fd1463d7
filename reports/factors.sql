-- The factors behind the figures of a period: which set, kind, vintage and value, and the PUE, per region.
select
    c.region, g.grid_zone, c.factor_set, c.factor_kind, c.factor_year, f.title, f.source, f.licence, f.attribution, f.digest,
    cast(min(c.intensity_g_per_kwh) as double) as intensity_min_g_per_kwh,
    cast(max(c.intensity_g_per_kwh) as double) as intensity_max_g_per_kwh,
    cast(min(c.pue) as double) as pue_min,
    cast(max(c.pue) as double) as pue_max
from slot_carbon as c
left join region as g on c.region = g.region
left join factor_set as f on c.factor_set = f.factor_set
where
    c.region is not null
    and ($cluster is null or c.cluster = $cluster)
    and ($region is null or c.region = $region)
    and ($from_utc is null or c.slot_at_utc >= $from_utc)
    and ($to_utc is null or c.slot_at_utc < $to_utc)
group by
    c.region, g.grid_zone, c.factor_set, c.factor_kind, c.factor_year, f.title, f.source, f.licence, f.attribution, f.digest
order by c.region, c.factor_set, c.factor_year
