-- No line of a segment was dropped in silence: ticks, gaps, marks, self-reports, header and reported problems together are its lines.
select s.cluster, s.node, s.sampler_run, s.seq, s.file, s.lines, coalesce(l.accounted, 0) + s.marks + 1 as accounted
from segment as s
left join (
    select cluster, node, boot_id, sampler_run, seq, count(distinct line) as accounted
    from (
        select cluster, node, boot_id, sampler_run, seq, line from tick
        union all
        select cluster, node, boot_id, sampler_run, seq, line from spool_gap
        union all
        select cluster, node, boot_id, sampler_run, seq, line from sampler_self
        union all
        select g.cluster, g.node, g.boot_id, g.sampler_run, g.seq, p.line
        from ingest_problem as p
        inner join segment as g on p.file = g.file
        where p.line is not null
    ) as line_of
    group by cluster, node, boot_id, sampler_run, seq
) as l
    on
        s.cluster = l.cluster and s.node = l.node and s.boot_id = l.boot_id
        and s.sampler_run = l.sampler_run and s.seq = l.seq
where coalesce(l.accounted, 0) + s.marks + 1 <> s.lines
