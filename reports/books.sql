-- The books of a region or of the whole site within a period, one row.
select
    cast(sum(counter_uj) as decimal(38, 0)) as counter_uj,
    cast(sum(jobs_uj) as decimal(38, 0)) as jobs_uj,
    cast(sum(unallocated_uj) as decimal(38, 0)) as unallocated_uj,
    cast(sum(system_uj) as decimal(38, 0)) as system_uj,
    cast(sum(gap_uj) as decimal(38, 0)) as gap_uj,
    cast(sum(known_uj) as decimal(38, 0)) as known_uj,
    sum(co2e_g) as co2e_g,
    round(sum(unknown_seconds), 3) as gap_seconds,
    round(sum(seconds), 3) as seconds,
    bool_or(is_modelled) as is_modelled,
    count(distinct cluster || ':' || node) as nodes
from books
where
    ($cluster is null or cluster = $cluster)
    and ($region is null or region = $region)
    and ($from_utc is null or slot_at_utc >= $from_utc)
    and ($to_utc is null or slot_at_utc < $to_utc)
