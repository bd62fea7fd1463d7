-- The runs that a job's name may mean.
select *
from run
where
    ($cluster is null or cluster = $cluster)
    and (
        cast(job_id as varchar) = $job or job_label = $job or run_id = $job
        or job_label like $job || '#_%' escape '#' or job_label like $job || '+%'
    )
order by started_at_utc, run_id
