-- A run with energy says how well it is known.
select r.cluster, r.run_id, r.user_name, s.energy_uj
from run as r
inner join (
    select cluster, run_id, sum(energy_uj) as energy_uj
    from run_slot
    group by cluster, run_id
) as s on r.cluster = s.cluster and r.run_id = s.run_id
where r.grade is null and s.energy_uj <> 0
