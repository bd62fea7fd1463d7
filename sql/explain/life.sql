-- Where a run lived: per node its life, what it held, what it used, and the evidence of its start and end.
select
    r.node,
    r.run_key,
    us_utc((r.began_ns + r.offset_ns) // 1000) as began_at_utc,
    us_utc((r.ended_ns + r.offset_ns) // 1000) as ended_at_utc,
    r.end_source,
    r.cpus,
    r.is_cpus_estimated,
    n.cpus as node_cpus,
    n.source as capacity_source,
    r.memory_bytes,
    n.memory_bytes as node_memory_bytes,
    r.cpu_us,
    s.file || ':' || m.line as start_evidence,
    t.file || ':' || e.line as end_evidence
from stg_run as r
left join stg_node as n
    on
        r.cluster = n.cluster and r.node = n.node
        and us_utc((r.began_ns + r.offset_ns) // 1000) >= n.valid_from_utc
        and us_utc((r.began_ns + r.offset_ns) // 1000) < n.valid_to_utc
left join job_mark as m on r.cluster = m.cluster and r.node = m.node and r.run_key = m.run_key and m.edge = 'start'
left join segment as s
    on
        m.cluster = s.cluster and m.node = s.node and m.boot_id = s.boot_id
        and m.sampler_run = s.sampler_run and m.seq = s.seq
left join job_mark as e on r.cluster = e.cluster and r.node = e.node and r.run_key = e.run_key and e.edge = 'end'
left join segment as t
    on
        e.cluster = t.cluster and e.node = t.node and e.boot_id = t.boot_id
        and e.sampler_run = t.sampler_run and e.seq = t.seq
where r.cluster = $cluster and r.run_id = $run_id
order by r.node, r.run_key
