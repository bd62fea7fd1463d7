-- What each counter counted while a run lived, and which part of it became the run's.
with lived as (
    select r.cluster, r.node, r.run_key, r.began_ns, r.ended_ns, r.boot_id
    from stg_run as r
    where r.cluster = $cluster and r.run_id = $run_id
),

counted as (
    select
        l.node, i.zone, l.run_key,
        count(*) as intervals,
        cast(sum(i.energy_uj) as decimal(38, 0)) as counter_uj,
        sum(case when i.energy_uj is null then 1 else 0 end) as unknown_intervals,
        string_agg(distinct i.reason, '; ') as reasons,
        min(i.began_us) as began_us,
        max(i.ended_us) as ended_us,
        arg_min(s.file || ':' || i.line, i.began_us) as first_evidence,
        arg_max(s.file || ':' || i.line, i.began_us) as last_evidence
    from lived as l
    inner join interval_energy as i
        on
            l.cluster = i.cluster and l.node = i.node and l.boot_id = i.boot_id
            and l.began_ns < i.ended_ns and l.ended_ns > i.began_ns
    inner join segment as s
        on
            i.cluster = s.cluster and i.node = s.node and i.boot_id = s.boot_id
            and i.sampler_run = s.sampler_run and i.seq = s.seq
    group by l.node, i.zone, l.run_key
),

booked as (
    select
        b.node, b.zone, b.run_key,
        cast(sum(b.energy_uj) as decimal(38, 0)) as energy_uj,
        cast(sum(b.own_use_uj) as decimal(38, 0)) as own_use_uj,
        cast(sum(b.own_idle_uj) as decimal(38, 0)) as own_idle_uj,
        cast(sum(b.system_share_uj) as decimal(38, 0)) as system_share_uj
    from booking as b
    inner join lived as l on b.cluster = l.cluster and b.node = l.node and b.run_key = l.run_key
    where b.account = 'job'
    group by b.node, b.zone, b.run_key
)

select
    c.node, c.zone, c.intervals, c.unknown_intervals, c.reasons, c.counter_uj,
    us_utc(c.began_us) as began_at_utc, us_utc(c.ended_us) as ended_at_utc, c.first_evidence, c.last_evidence,
    k.idle_uw, k.how as calibration,
    b.energy_uj, b.own_use_uj, b.own_idle_uj, b.system_share_uj
from counted as c
left join booked as b on c.node = b.node and c.zone = b.zone and c.run_key = b.run_key
left join calibration as k on k.cluster = $cluster and c.node = k.node and c.zone = k.zone
order by c.node, c.zone
