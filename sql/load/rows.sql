-- From the lines of a batch to evidence rows. Runs in the transaction that also inserts the segments.
insert into tick
select cluster, node, boot_id, sampler_run, seq, line, t, bt, coalesce(why, 'clock'), mem
from raw_line
where k = 'tick' and t is not null and bt is not null;

insert into reading
select r.cluster, r.node, r.boot_id, r.sampler_run, r.seq, r.line, r.entry.key, r.entry.value, null
from (
    select cluster, node, boot_id, sampler_run, seq, line, unnest(map_entries(c)) as entry
    from raw_line
    where k = 'tick' and t is not null and bt is not null
) as r;

insert into reading
select r.cluster, r.node, r.boot_id, r.sampler_run, r.seq, r.line, r.entry.key, null, r.entry.value
from (
    select cluster, node, boot_id, sampler_run, seq, line, unnest(map_entries(err)) as entry
    from raw_line
    where k = 'tick' and t is not null and bt is not null
) as r;

insert into busy
select r.cluster, r.node, r.boot_id, r.sampler_run, r.seq, r.line, r.entry.key, r.entry.value
from (
    select cluster, node, boot_id, sampler_run, seq, line, unnest(map_entries(busy)) as entry
    from raw_line
    where k = 'tick' and t is not null and bt is not null
) as r
where r.entry.value is not null;

insert into job_use
select
    r.cluster, r.node, r.boot_id, r.sampler_run, r.seq, r.line, r.entry.key,
    r.entry.value.cpu, r.entry.value.mem, r.entry.value.cpuset, r.entry.value.mem_limit
from (
    select cluster, node, boot_id, sampler_run, seq, line, unnest(map_entries(jobs)) as entry
    from raw_line
    where k = 'tick' and t is not null and bt is not null
) as r;

insert into spool_gap
select cluster, node, boot_id, sampler_run, seq, line, since_bt, bt, reason
from raw_line
where k = 'gap';

insert into sampler_self
select cluster, node, boot_id, sampler_run, seq, line, t, cpu_us, rss_bytes, ticks, late_ms_max, read_errors
from raw_line
where k = 'self' and t is not null;
