-- One run of a job on one node: its life on the node's own clock, what it holds there, whose it is.
-- Grain: (cluster, node, run_key). run_id joins the nodes of one run: SLUID, else job id and Slurm's record, else the
-- job id and how many runs of it the node had before. cpus or memory_bytes null: unknown.
-- gpus: the devices it was given, as the sampler resolved them, separated by commas.
-- cpu_us: all CPU time that was seen of it, up to last_seen_ns.
-- end_source: epilog (the hook), cgroup gone and node booted (the sampler, where no epilog came), record (Slurm's),
-- last_seen (its cgroup), running (no end known).
-- A run without a start mark (no PrologFlags=Alloc) lives as long as Slurm's record says; clocks may differ by a second.
create or replace view stg_run as
with record as (
    select
        j.cluster, j.db_index, j.job_id, j.sluid, n.node, j.uid, j.user_name, j.account, j.partition,
        j.started_at_utc, j.ended_at_utc, j.cpus, j.memory_bytes, j.nodes
    from slurm_job as j
    inner join slurm_job_node as n
        on j.cluster = n.cluster and j.db_index = n.db_index and j.version = n.version
    where
        j.started_at_utc is not null
        and not exists (
            select 1 from slurm_job as newer
            where newer.cluster = j.cluster and newer.db_index = j.db_index and newer.version > j.version
        )
),

boot_clock as (
    select
        cluster, node, boot_id,
        min(read_at_utc) as first_at_utc,
        max(read_at_utc) as last_at_utc,
        max(boottime_ns) as last_ns,
        -- UTC minus the node's clock at the last tick: places Slurm's times on the node's clock.
        max_by(utc_us(read_at_utc) * 1000 - boottime_ns, boottime_ns) as offset_ns
    from tick
    group by cluster, node, boot_id
),

marked as (
    select
        cluster, node, run_key,
        coalesce(max(case when edge = 'start' then boot_id end), max(boot_id)) as boot_id,
        max(job_id) as job_id,
        max(sluid) as sluid,
        max(uid) as uid,
        max(user_name) as user_name,
        max(account) as account,
        max(partition) as partition,
        max(job_name) as job_name,
        max(cpus) as cpus,
        max(gpus) as gpus,
        max(case when edge = 'start' then boottime_ns end) as start_ns,
        max(case when edge = 'end' then boottime_ns end) as end_ns,
        max(case when edge = 'end' then why end) as end_why,
        max(case when edge = 'start' then marked_at_utc end) as start_at_utc,
        max(case when edge = 'end' then marked_at_utc end) as end_at_utc
    from job_mark
    where edge in ('start', 'end')
    group by cluster, node, run_key
),

seen as (
    select
        u.cluster, u.node, u.boot_id, u.run_key,
        max(t.boottime_ns) as last_seen_ns,
        max(u.cpu_us) as cpu_us,
        max(u.memory_limit_bytes) as memory_limit_bytes
    from job_use as u
    inner join tick as t
        on
            u.cluster = t.cluster and u.node = t.node and u.boot_id = t.boot_id
            and u.sampler_run = t.sampler_run and u.seq = t.seq and u.line = t.line
    group by u.cluster, u.node, u.boot_id, u.run_key
),

-- The record whose life holds the mark; of several (a requeue) the one that began nearest.
matched as (
    select
        m.*,
        r.db_index,
        r.sluid as record_sluid,
        r.uid as record_uid,
        r.user_name as record_user,
        r.account as record_account,
        r.partition as record_partition,
        r.started_at_utc,
        r.ended_at_utc,
        r.cpus as record_cpus,
        r.memory_bytes as record_memory_bytes,
        r.nodes as record_nodes
    from marked as m
    left join record as r
        on
            m.cluster = r.cluster and m.node = r.node and m.job_id = r.job_id
            and (m.sluid is null or r.sluid is null or m.sluid = r.sluid)
            and coalesce(m.start_at_utc, m.end_at_utc) >= r.started_at_utc - interval 60 second
            and coalesce(m.start_at_utc, m.end_at_utc)
            <= coalesce(r.ended_at_utc, timestamp '9999-01-01 00:00:00') + interval 60 second
    qualify row_number() over (
        partition by m.cluster, m.node, m.run_key
        order by
            abs(
                utc_us(coalesce(m.start_at_utc, m.end_at_utc))
                - utc_us(case when m.start_at_utc is null then r.ended_at_utc else r.started_at_utc end)
            ) asc nulls last,
            r.db_index asc
    ) = 1
),

-- An epilog that came twice left a second run without a start: the run with the start is the run.
one_each as (
    select *
    from matched
    qualify
        start_ns is not null
        or (
            db_index is not null
            and row_number() over (
                partition by cluster, node, db_index order by (start_ns is null) asc, end_ns asc, run_key asc
            ) = 1
        )
),

unmarked as (
    select
        r.cluster, r.node, 'slurm:' || r.db_index as run_key, b.boot_id, r.job_id, r.sluid, r.uid, r.user_name,
        r.account, r.partition, cast(null as varchar) as job_name, cast(null as integer) as cpus,
        cast(null as varchar) as gpus,
        cast(null as bigint) as start_ns, cast(null as bigint) as end_ns, cast(null as varchar) as end_why,
        r.db_index, r.started_at_utc, r.ended_at_utc, r.cpus as record_cpus,
        r.memory_bytes as record_memory_bytes, r.nodes as record_nodes
    from record as r
    inner join boot_clock as b
        on
            r.cluster = b.cluster and r.node = b.node and r.started_at_utc < b.last_at_utc
            and coalesce(r.ended_at_utc, timestamp '9999-01-01 00:00:00') > b.first_at_utc
    where
        not exists (
            select 1 from one_each as m
            where m.cluster = r.cluster and m.node = r.node and m.db_index = r.db_index
        )
),

run as (
    select
        cluster, node, run_key, boot_id, job_id, coalesce(record_sluid, sluid) as sluid,
        coalesce(record_uid, uid) as uid, coalesce(record_user, user_name) as user_name,
        coalesce(record_account, account) as account, coalesce(record_partition, partition) as partition,
        job_name, cpus, gpus, start_ns, end_ns, end_why, db_index, started_at_utc, ended_at_utc,
        record_cpus, record_memory_bytes, record_nodes
    from one_each
    union all
    select
        cluster, node, run_key, boot_id, job_id, sluid, uid, user_name, account, partition, job_name, cpus, gpus,
        start_ns, end_ns, end_why, db_index, started_at_utc, ended_at_utc, record_cpus, record_memory_bytes,
        record_nodes
    from unmarked
)

select
    r.cluster,
    r.node,
    r.run_key,
    r.boot_id,
    coalesce(
        r.sluid,
        r.job_id || '@' || r.db_index,
        r.job_id || '@' || row_number() over (
            partition by r.cluster, r.node, r.job_id, r.db_index is null order by r.start_ns, r.run_key
        )
    ) as run_id,
    r.db_index,
    r.job_id,
    r.uid,
    r.user_name,
    r.account,
    r.partition,
    r.job_name,
    coalesce(r.start_ns, utc_us(r.started_at_utc) * 1000 - b.offset_ns) as began_ns,
    greatest(
        coalesce(r.start_ns, utc_us(r.started_at_utc) * 1000 - b.offset_ns),
        coalesce(
            r.end_ns,
            utc_us(r.ended_at_utc) * 1000 - b.offset_ns,
            case when s.last_seen_ns < b.last_ns then s.last_seen_ns end,
            b.last_ns
        )
    ) as ended_ns,
    b.offset_ns,
    case
        when r.end_ns is not null then coalesce(r.end_why, 'epilog')
        when r.ended_at_utc is not null then 'record'
        when s.last_seen_ns < b.last_ns then 'last_seen'
        else 'running'
    end as end_source,
    s.last_seen_ns,
    s.cpu_us,
    coalesce(r.cpus, mul_div(r.record_cpus, 1, r.record_nodes)) as cpus,
    r.cpus is null as is_cpus_estimated,
    r.gpus,
    coalesce(
        s.memory_limit_bytes,
        mul_div(r.record_memory_bytes, coalesce(r.cpus, mul_div(r.record_cpus, 1, r.record_nodes)), r.record_cpus)
    ) as memory_bytes
from run as r
inner join boot_clock as b on r.cluster = b.cluster and r.node = b.node and r.boot_id = b.boot_id
left join seen as s
    on r.cluster = s.cluster and r.node = s.node and r.boot_id = s.boot_id and r.run_key = s.run_key;
