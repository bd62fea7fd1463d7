-- An immutable table of factors: a newer file is a new set, never an edit.
create table if not exists factor_set (
    factor_set varchar not null,
    title varchar not null,
    source varchar not null,
    licence varchar not null,
    attribution varchar not null,
    digest varchar not null,
    loaded_at_utc timestamp not null,
    primary key (factor_set)
);

-- One factor. kind: {location, market, residual, marginal}-{lifecycle, direct}; a series has one kind.
-- Either slot_at_utc (a base slot) or year is set; the other is null in meaning, stored as 1970-01-01 or 0.
create table if not exists intensity (
    factor_set varchar not null,
    grid_zone varchar not null,
    kind varchar not null,
    year integer not null,
    slot_at_utc timestamp not null,
    intensity_g_per_kwh decimal(12, 6) not null,
    primary key (factor_set, grid_zone, kind, year, slot_at_utc)
);

-- The base slots, 15 minutes each, that the evidence touches: every join over time is by slot.
create table if not exists slot (
    slot_at_utc timestamp not null,
    primary key (slot_at_utc)
);
