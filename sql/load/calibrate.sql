-- The first calibration of a counter holds for all time: enough is half a minute and three intervals without any run.
insert into calibration
select
    i.cluster, i.node, i.zone, timestamp '1970-01-01 00:00:00', i.idle_uw,
    '5th percentile of ' || i.intervals || ' empty intervals, ' || i.seconds || ' s'
from idle_power as i
where
    i.intervals >= 3 and i.seconds >= 30
    and not exists (
        select 1 from calibration as c where c.cluster = i.cluster and c.node = i.node and c.zone = i.zone
    );
