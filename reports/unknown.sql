-- Time without known energy within a period, by reason, with the nodes it is about.
select
    reason,
    round(sum(seconds), 3) as seconds,
    string_agg(distinct node, ', ' order by node) as nodes
from unknown_time
where
    ($cluster is null or cluster = $cluster)
    and ($region is null or region = $region)
    and ($from_utc is null or slot_at_utc >= $from_utc)
    and ($to_utc is null or slot_at_utc < $to_utc)
group by reason
order by sum(seconds) desc, reason
