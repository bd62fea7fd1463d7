-- What a sampler said of itself when it sealed a segment: its cost, and how well it kept time.
create table if not exists sampler_self (
    cluster varchar not null,
    node varchar not null,
    boot_id varchar not null,
    sampler_run varchar not null,
    seq integer not null,
    line integer not null,
    said_at_utc timestamp not null,
    cpu_us bigint,
    rss_bytes bigint,
    ticks bigint,
    late_ms_max bigint,
    read_errors bigint
);
