-- What Slurm may allocate on a node, from valid_from_utc on; dated, never relearned in a recomputation.
create table if not exists node_spec (
    cluster varchar not null,
    node varchar not null,
    valid_from_utc timestamp not null,
    cpus integer not null,
    memory_bytes bigint not null,
    gpus integer,
    source varchar not null,
    primary key (cluster, node, valid_from_utc)
);

-- Idle power of one counter, from valid_from_utc on, and how it was found.
create table if not exists calibration (
    cluster varchar not null,
    node varchar not null,
    zone varchar not null,
    valid_from_utc timestamp not null,
    idle_uw bigint not null,
    how varchar not null,
    primary key (cluster, node, zone, valid_from_utc)
);

-- A place with one grid: what the site's configuration says today.
create table if not exists region (
    region varchar not null,
    grid_zone varchar not null,
    time_zone varchar not null,
    factor_set varchar not null,
    primary key (region)
);

create table if not exists node_region (
    cluster varchar not null,
    node varchar not null,
    region varchar not null,
    primary key (cluster, node)
);

create table if not exists pue (
    region varchar not null,
    from_utc timestamp not null,
    pue decimal(8, 6) not null,
    primary key (region, from_utc)
);
