-- The counters behind the figures of a period: what counts, and what its meter says of itself.
select z.cluster, z.node, z.zone, z.domain, max(z.why) as why, max(s.cpu_model) as cpu_model
from zone as z
inner join (
    select distinct cluster, node, zone
    from slot_carbon
    where
        ($cluster is null or cluster = $cluster)
        and ($region is null or region = $region)
        and ($from_utc is null or slot_at_utc >= $from_utc)
        and ($to_utc is null or slot_at_utc < $to_utc)
) as c on z.cluster = c.cluster and z.node = c.node and z.zone = c.zone
inner join segment as s
    on
        z.cluster = s.cluster and z.node = s.node and z.boot_id = s.boot_id and z.sampler_run = s.sampler_run
where z.used
group by z.cluster, z.node, z.zone, z.domain
order by z.cluster, z.node, z.zone
