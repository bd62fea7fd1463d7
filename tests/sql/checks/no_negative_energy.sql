-- One microjoule is taken from a job and given to the system.
create table journal as select * from booking;
update journal set own_use_uj = -1 where account = 'job';
create or replace view booking as select * from journal;
