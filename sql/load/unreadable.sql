-- Lines of a batch that cannot be used, and what a usable one would have.
select
    filename,
    line,
    case
        when k is null then 'a line of JSON with the key k'
        when k in ('tick', 'job_start', 'job_end', 'mark', 'self') and (t is null or bt is null) then 't (UTC) and bt (ns)'
        when k in ('job_start', 'job_end') and (run is null or job is null) then 'run and job'
        when k = 'mark' and run is null then 'run'
        when k = 'tick' and c is null then 'c, a map of counters'
        when
            k = 'tick' and len(list_filter(map_values(c), lambda value: value is null)) > 0
            then 'every counter an integer of microjoules'
        else 'k: header, tick, job_start, job_end, mark, gap, self or trailer'
    end as expected
from raw_line
where
    k is null
    or k not in ('header', 'tick', 'job_start', 'job_end', 'mark', 'gap', 'self', 'trailer')
    or (k in ('tick', 'job_start', 'job_end', 'mark', 'self') and (t is null or bt is null))
    or (k in ('job_start', 'job_end') and (run is null or job is null))
    or (k = 'mark' and run is null)
    or (k = 'tick' and c is null)
    or (k = 'tick' and len(list_filter(map_values(c), lambda value: value is null)) > 0)
order by filename, line
