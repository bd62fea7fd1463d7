-- The starts, ends and marks among the lines of a batch.
select
    filename, cluster, node, boot_id, sampler_run, seq, line, t, bt, run, job, sluid, uid, env, gpus, why,
    case k when 'job_start' then 'start' when 'job_end' then 'end' else edge end as edge,
    name
from raw_line
where
    k in ('job_start', 'job_end', 'mark') and t is not null and bt is not null and run is not null
    and (job is not null or k = 'mark')
