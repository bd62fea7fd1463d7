select
    (select count(*) from incoming_job) as records,
    (select count(*) from new_job) as changed,
    (select min(started_at_s) from incoming_job) as from_s,
    (select max(ended_at_s) from incoming_job) as to_s
