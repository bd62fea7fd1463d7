-- No run is booked energy of a piece that its life does not touch.
select b.cluster, b.node, b.zone, b.run_key, us_utc(b.began_us) as began_at_utc, b.energy_uj
from booking as b
left join (
    select i.cluster, i.node, i.zone, i.began_us, r.run_key
    from interval_energy as i
    inner join stg_run as r
        on
            i.cluster = r.cluster and i.node = r.node and i.boot_id = r.boot_id
            and r.began_ns < i.ended_ns and r.ended_ns > i.began_ns
) as alive
    on
        b.cluster = alive.cluster and b.node = alive.node and b.zone = alive.zone
        and b.began_us = alive.began_us and b.run_key = alive.run_key
where b.account = 'job' and b.energy_uj <> 0 and alive.run_key is null
