-- One run of a job as Slurm's accounting knows it. A record that changed later comes in as a new version.
create table if not exists slurm_job (
    cluster varchar not null,
    db_index varchar not null,
    version integer not null,
    job_id bigint not null,
    sluid varchar,
    job_label varchar not null,
    array_job_id bigint,
    array_task_id bigint,
    het_job_id bigint,
    het_offset bigint,
    user_name varchar,
    uid bigint,
    account varchar,
    partition varchar,
    qos varchar,
    name varchar,
    state varchar not null,
    exit_code varchar,
    submitted_at_utc timestamp,
    started_at_utc timestamp,
    ended_at_utc timestamp,
    suspended_s bigint,
    timelimit_s bigint,
    node_list varchar,
    nodes integer,
    cpus integer,
    memory_bytes bigint,
    gpus integer,
    alloc_tres varchar,
    consumed_energy_raw_j bigint,
    source varchar not null,
    line integer,
    digest varchar not null,
    seen_at_utc timestamp not null,
    primary key (cluster, db_index, version)
);

-- The nodes of a record, expanded from its hostlist.
create table if not exists slurm_job_node (
    cluster varchar not null,
    db_index varchar not null,
    version integer not null,
    node varchar not null,
    primary key (cluster, db_index, version, node)
);

-- For which time Slurm's records have been loaded: without them nobody can claim the energy over a hole.
create table if not exists slurm_coverage (
    cluster varchar not null,
    from_utc timestamp not null,
    to_utc timestamp not null,
    source varchar not null,
    loaded_at_utc timestamp not null,
    primary key (cluster, from_utc, to_utc, source)
);
