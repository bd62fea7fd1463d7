-- A run has energy, but nobody says how well it is known.
create or replace view run as
select 'lab' as cluster, '1@1' as run_id, 'alice' as user_name, cast(null as varchar) as grade;
