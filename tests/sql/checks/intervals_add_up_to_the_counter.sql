-- An interval lost a microjoule.
create table cut as select * from interval_energy;
update cut set energy_uj = energy_uj - 1 where energy_uj > 1000000;
create or replace view interval_energy as select * from cut;
