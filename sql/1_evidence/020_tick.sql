-- One reading of a node. Key: (cluster, node, boot_id, sampler_run, seq, line); not enforced by an index, because the
-- segment's key already admits each line once and an index over every reading would cost more than the readings.
create table if not exists tick (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    seq integer not null,
    line integer not null,
    read_at_utc timestamp not null,
    boottime_ns bigint not null,
    why varchar not null,
    memory_bytes bigint
);

-- What one counter said at one tick. counter_uj is null where the read failed; error then says how.
create table if not exists reading (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    seq integer not null,
    line integer not null,
    zone varchar not null,
    counter_uj bigint,
    error varchar
);

-- Busy CPU time of one socket since boot.
create table if not exists busy (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    seq integer not null,
    line integer not null,
    socket varchar not null,
    busy_us bigint not null
);

-- What one run had used at one tick; null is unknown (no cgroup yet).
create table if not exists job_use (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    seq integer not null,
    line integer not null,
    run_key varchar not null,
    cpu_us bigint,
    memory_bytes bigint,
    cpuset varchar,
    memory_limit_bytes bigint
);

-- A hole the sampler itself knows of.
create table if not exists spool_gap (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    seq integer not null,
    line integer not null,
    since_boottime_ns bigint,
    boottime_ns bigint,
    reason varchar
);
