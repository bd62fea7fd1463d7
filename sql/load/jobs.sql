-- Records that are new, or say something else than their last version. One record may come twice in a batch: the last wins.
create or replace temp table new_job as
select i.*, coalesce(k.version, 0) + 1 as version
from (
    select *
    from incoming_job
    qualify row_number() over (partition by cluster, db_index order by line desc) = 1
) as i
left join (
    select cluster, db_index, version, digest
    from slurm_job
    qualify row_number() over (partition by cluster, db_index order by version desc) = 1
) as k on i.cluster = k.cluster and i.db_index = k.db_index
where k.digest is distinct from i.digest;

insert into slurm_job
select
    cluster, db_index, version, job_id, sluid, job_label, array_job_id, array_task_id, het_job_id, het_offset,
    "user", uid, account, partition, qos, name, state, exit_code,
    to_timestamp(submitted_at_s) at time zone 'UTC', to_timestamp(started_at_s) at time zone 'UTC',
    to_timestamp(ended_at_s) at time zone 'UTC', suspended_s, timelimit_s, node_list, nodes, cpus, memory_bytes, gpus,
    alloc_tres, consumed_energy_raw_j, source, line, digest, seen_at_utc
from new_job;

insert into slurm_job_node
select distinct cluster, db_index, version, unnest(expanded_nodes)
from new_job;
