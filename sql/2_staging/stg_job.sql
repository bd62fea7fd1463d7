-- The current version of each job record. Grain: (cluster, db_index).
create or replace view stg_job as
select
    cluster, db_index, version, job_id, sluid, job_label, array_job_id, array_task_id, het_job_id, het_offset,
    user_name, uid, account, partition, qos, name, state, exit_code,
    submitted_at_utc, started_at_utc, ended_at_utc, suspended_s, timelimit_s,
    node_list, nodes, cpus, memory_bytes, gpus, consumed_energy_raw_j, source, line
from slurm_job
qualify row_number() over (partition by cluster, db_index order by version desc) = 1;
