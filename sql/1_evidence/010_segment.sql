-- One sealed spool file. Its key makes every load idempotent: all rows of a segment enter in one transaction with it.
create table if not exists segment (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    seq integer not null,
    digest varchar not null,
    previous_digest varchar,
    intact boolean not null,
    recovered boolean not null,
    lines integer not null,
    marks integer not null,
    began_at_utc timestamp,
    interval_ns bigint,
    manager varchar,
    software varchar,
    cpus integer,
    sockets integer,
    memory_bytes bigint,
    cpu_model varchar,
    file varchar not null,
    size_bytes bigint not null,
    ingested_at_utc timestamp not null,
    primary key (cluster, node, boot_id, sampler_run, seq)
);

-- One energy counter as one sampler run found it. used: part of the non-overlapping set that counts.
-- method: counter, integrated (from power readings) or modelled.
create table if not exists zone (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    zone varchar not null,
    domain varchar not null,
    wrap_uj bigint,
    max_uw bigint,
    used boolean not null,
    why varchar,
    method varchar not null,
    primary key (cluster, node, boot_id, sampler_run, zone)
);
