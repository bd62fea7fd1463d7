-- One microjoule is booked twice: the journal is replaced by a table with a row too many.
create table journal as select * from booking;
insert into journal select * replace (1 as energy_uj) from journal where account = 'job' limit 1;
create or replace view booking as select * from journal;
