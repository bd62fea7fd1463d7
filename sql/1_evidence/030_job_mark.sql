-- A run's start, end, or a mark of its own program. The first of its key wins: a repeated one changes nothing.
-- environment: Slurm's variables as JSON text, raw. cpus: this node's count, expanded from them by the collector.
create table if not exists job_mark (
    cluster varchar not null,
    node varchar not null,
    run_key varchar not null,
    edge varchar not null,
    name varchar not null,
    boot_id varchar not null,
    boottime_ns bigint not null,
    marked_at_utc timestamp not null,
    job_id bigint,
    sluid varchar,
    uid bigint,
    user_name varchar,
    account varchar,
    partition varchar,
    job_name varchar,
    cpus integer,
    gpus varchar,
    environment varchar,
    why varchar,
    sampler_run varchar not null,
    seq integer not null,
    line integer not null,
    primary key (cluster, node, run_key, edge, name)
);
