-- A job is booked energy of an interval after its end.
create table journal as select * from booking;
insert into journal
select * replace ('job' as account, '1@a-1' as run_key, 5 as energy_uj)
from journal where began_us = (select max(began_us) from journal) limit 1;
create or replace view booking as select * from journal;
