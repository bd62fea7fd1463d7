-- The runs of a report and what they used within its period.
-- Grain: run. A parameter that is null does not restrict. Runs without any evidence have null energies.
with chosen as (
    select *
    from run
    where
        ($cluster is null or cluster = $cluster)
        and ($user is null or user_name = $user)
        and ($account is null or account = $account)
        and ($partition is null or partition = $partition)
        and (
            $job is null or cast(job_id as varchar) = $job or job_label = $job
            or job_label like $job || '#_%' escape '#' or job_label like $job || '+%' or run_id = $job
        )
        and ($from_utc is null or ended_at_utc is null or ended_at_utc >= $from_utc)
        and ($to_utc is null or started_at_utc < $to_utc)
),

used as (
    select
        s.cluster, s.run_id,
        string_agg(distinct s.region, ', ' order by s.region) as region,
        sum(s.energy_uj) as energy_uj,
        sum(s.cpu_uj) as cpu_uj,
        sum(s.dram_uj) as dram_uj,
        sum(s.gpu_uj) as gpu_uj,
        sum(s.rest_uj) as rest_uj,
        sum(s.own_use_uj) as own_use_uj,
        sum(s.own_idle_uj) as own_idle_uj,
        sum(s.system_share_uj) as system_share_uj,
        sum(s.known_uj) as known_uj,
        sum(s.co2e_g) as co2e_g
    from run_slot as s
    where
        ($from_utc is null or s.slot_at_utc >= $from_utc)
        and ($to_utc is null or s.slot_at_utc < $to_utc)
        and ($region is null or s.region = $region)
    group by s.cluster, s.run_id
)

select
    c.cluster, c.run_id, c.job_id, c.job_label, c.job_name, c.uid, c.user_name, c.account, c.partition, c.state,
    c.started_at_utc, c.ended_at_utc, c.nodes, c.grade, c.coverage_ratio, c.gap_seconds,
    c.life_seconds, c.known_seconds,
    u.region, u.energy_uj, u.cpu_uj, u.dram_uj, u.gpu_uj, u.rest_uj, u.own_use_uj, u.own_idle_uj, u.system_share_uj,
    u.known_uj, u.co2e_g
from chosen as c
left join used as u on c.cluster = u.cluster and c.run_id = u.run_id
where $region is null or u.region is not null
order by c.started_at_utc nulls last, c.cluster, c.job_id, c.run_id
