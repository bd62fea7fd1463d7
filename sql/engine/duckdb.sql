-- What the portable SQL needs from this engine, defined once. Spark has its own file of the same names.

-- floor(a * b / c) exactly, with a 128-bit product; c = 0 gives null. a, b >= 0.
create or replace macro mul_div(a, b, c) as cast((cast(a as hugeint) * cast(b as hugeint)) // nullif(cast(c as hugeint), 0) as bigint);

-- The remainder that mul_div drops, for the largest-remainder rule.
create or replace macro mul_mod(a, b, c) as (cast(a as hugeint) * cast(b as hugeint)) % nullif(cast(c as hugeint), 0);

-- a * b / c rounded half up, for grams.
create or replace macro mul_div_round(a, b, c) as
    cast((2 * cast(a as hugeint) * cast(b as hugeint) + cast(c as hugeint)) // nullif(2 * cast(c as hugeint), 0) as bigint);

-- Microseconds since 1970 of a UTC timestamp, and back.
create or replace macro utc_us(ts) as epoch_us(ts);
create or replace macro us_utc(us) as make_timestamp(us);
