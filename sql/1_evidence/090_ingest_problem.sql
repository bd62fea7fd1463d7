-- Input that could not be used: where it stands, what was expected, what was found. The rest was loaded.
create table if not exists ingest_problem (
    id varchar not null,
    file varchar not null,
    line integer,
    expected varchar not null,
    found varchar not null,
    seen_at_utc timestamp not null,
    primary key (id)
);
