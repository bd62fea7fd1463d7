-- One run of a job over all its nodes: who, what, when, and how well it is known.
-- Grain: (cluster, run_id). coverage_ratio: the part of the run's node time with known energy. grade: measured (at least
-- 99 % of it, by counters), partly_measured (less of it, or from integrated power), modelled; null where nothing of the run is known.
create or replace view run as
with on_nodes as (
    select
        r.cluster, r.run_id,
        max(r.db_index) as db_index,
        max(r.job_id) as job_id,
        max(r.uid) as uid,
        max(r.user_name) as user_name,
        max(r.account) as account,
        max(r.partition) as partition,
        max(r.job_name) as job_name,
        count(*) as nodes_seen,
        string_agg(r.node, ',' order by r.node) as nodes,
        min(us_utc((r.began_ns + r.offset_ns) // 1000)) as began_at_utc,
        max(us_utc((r.ended_ns + r.offset_ns) // 1000)) as ended_at_utc,
        max(case when r.end_source = 'running' then 1 else 0 end) = 1 as is_running,
        sum(c.life_ns) as life_ns,
        sum(case when c.zones = 0 then 0 else c.known_ns // nullif(c.zones, 0) end) as known_ns,
        max(case when c.is_modelled then 1 else 0 end) = 1 as is_modelled,
        max(case when c.is_integrated then 1 else 0 end) = 1 as is_integrated
    from stg_run as r
    inner join run_coverage as c on r.cluster = c.cluster and r.node = c.node and r.run_key = c.run_key
    group by r.cluster, r.run_id
),

joined as (
    select
        coalesce(o.cluster, j.cluster) as cluster,
        coalesce(o.run_id, j.sluid, j.job_id || '@' || j.db_index) as run_id,
        coalesce(j.db_index, o.db_index) as db_index,
        coalesce(o.job_id, j.job_id) as job_id,
        coalesce(j.job_label, cast(o.job_id as varchar)) as job_label,
        coalesce(j.name, o.job_name) as job_name,
        coalesce(o.uid, j.uid) as uid,
        coalesce(o.user_name, j.user_name) as user_name,
        coalesce(o.account, j.account) as account,
        coalesce(o.partition, j.partition) as partition,
        j.state,
        coalesce(j.started_at_utc, o.began_at_utc) as started_at_utc,
        case when o.is_running then null else coalesce(j.ended_at_utc, o.ended_at_utc) end as ended_at_utc,
        coalesce(j.node_list, o.nodes) as nodes,
        o.is_modelled,
        o.is_integrated,
        coalesce(o.known_ns, 0) as known_ns,
        -- A node of the record without any evidence counts with the record's own duration.
        coalesce(o.life_ns, 0)
        + greatest(0, coalesce(j.nodes, 0) - coalesce(o.nodes_seen, 0))
        * greatest(0, coalesce(utc_us(j.ended_at_utc) - utc_us(j.started_at_utc), 0)) * 1000 as life_ns
    from on_nodes as o
    full outer join stg_job as j on o.cluster = j.cluster and o.db_index = j.db_index
    where o.run_id is not null or (j.node_list is not null and j.started_at_utc is not null)
)

select
    cluster,
    run_id,
    db_index,
    job_id,
    job_label,
    job_name,
    uid,
    user_name,
    account,
    partition,
    state,
    started_at_utc,
    ended_at_utc,
    nodes,
    case
        when known_ns = 0 then null
        when is_modelled then 'modelled'
        when known_ns >= 0.99 * life_ns and not is_integrated then 'measured'
        else 'partly_measured'
    end as grade,
    case when life_ns > 0 then round(least(1.0, cast(known_ns as double) / nullif(life_ns, 0)), 6) end as coverage_ratio,
    round(greatest(0, cast(life_ns - known_ns as double)) / 1e9, 3) as gap_seconds,
    -- For sums: a ratio of sums, not a mean of ratios.
    cast(life_ns as double) / 1e9 as life_seconds,
    cast(least(known_ns, life_ns) as double) / 1e9 as known_seconds
from joined;
