-- A counter that counts component energy never gives a negative figure to anybody.
select cluster, node, zone, account, run_key, us_utc(began_us) as began_at_utc, energy_uj
from booking
where
    pool <> 'rest'
    and (energy_uj < 0 or own_use_uj < 0 or own_idle_uj < 0 or system_share_uj < 0)
