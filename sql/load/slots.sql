-- The base slots of the ticks of this batch, and those between them and what was there: an interval may span them.
-- A clock that stood before 2020 was wrong; nothing is filled up to it.
insert into slot
with plausible as (
    select min(t) as first_at, max(t) as last_at
    from raw_line
    where k = 'tick' and t >= timestamp '2020-01-01 00:00:00'
),

there as (
    select min(slot_at_utc) as first_at, max(slot_at_utc) as last_at
    from slot
    where slot_at_utc >= timestamp '2020-01-01 00:00:00'
)

select distinct time_bucket(interval 15 minute, t)
from raw_line
where k = 'tick' and t is not null
union
select cast(unnest(generate_series(
    time_bucket(interval 15 minute, least(p.first_at, coalesce(h.first_at, p.first_at))) - interval 1 hour,
    time_bucket(interval 15 minute, greatest(p.last_at, coalesce(h.last_at, p.last_at))),
    interval 15 minute
)) as timestamp)
from plausible as p
cross join there as h
on conflict do nothing
