-- CPU time of a run at a tick, in microseconds since the run began.
-- Grain: (cluster, node, boot_id, run_key, boottime_ns). Before the first reading of its cgroup a run had used 0: the
-- cgroup is made after the prolog. A reading that failed keeps the last value; the counter never falls.
create or replace view stg_use as
select
    u.cluster,
    u.node,
    u.boot_id,
    u.run_key,
    t.boottime_ns,
    t.read_at_utc,
    coalesce(
        max(u.cpu_us) over (
            partition by u.cluster, u.node, u.boot_id, u.run_key order by t.boottime_ns
            rows between unbounded preceding and current row
        ),
        0
    ) as cpu_us,
    u.cpu_us is not null as is_read,
    u.memory_limit_bytes
from job_use as u
inner join tick as t
    on
        u.cluster = t.cluster and u.node = t.node and u.boot_id = t.boot_id
        and u.sampler_run = t.sampler_run and u.seq = t.seq and u.line = t.line;
