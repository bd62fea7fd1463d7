create or replace temp table incoming_job as
select *, cast($now as timestamp) as seen_at_utc
from read_json($file, format = 'newline_delimited', maximum_object_size = 67108864, columns = {
    'cluster': 'VARCHAR', 'db_index': 'VARCHAR', 'job_id': 'BIGINT', 'sluid': 'VARCHAR', 'job_label': 'VARCHAR',
    'array_job_id': 'BIGINT', 'array_task_id': 'BIGINT', 'het_job_id': 'BIGINT', 'het_offset': 'BIGINT',
    'user': 'VARCHAR', 'uid': 'BIGINT', 'account': 'VARCHAR', 'partition': 'VARCHAR', 'qos': 'VARCHAR',
    'name': 'VARCHAR', 'state': 'VARCHAR', 'exit_code': 'VARCHAR', 'submitted_at_s': 'BIGINT',
    'started_at_s': 'BIGINT', 'ended_at_s': 'BIGINT', 'suspended_s': 'BIGINT', 'timelimit_s': 'BIGINT',
    'node_list': 'VARCHAR', 'nodes': 'INTEGER', 'cpus': 'INTEGER', 'memory_bytes': 'BIGINT', 'gpus': 'INTEGER',
    'alloc_tres': 'VARCHAR', 'consumed_energy_raw_j': 'BIGINT', 'source': 'VARCHAR', 'line': 'INTEGER',
    'digest': 'VARCHAR', 'expanded_nodes': 'VARCHAR[]'
})
