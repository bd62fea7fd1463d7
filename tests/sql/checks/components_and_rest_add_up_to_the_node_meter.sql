-- The node meter counted more than components and rest were given.
insert into zone
select cluster, node, boot_id, sampler_run, 'cray_pm:node', 'node', null, null, true, 'test', 'counter' from segment limit 1;
insert into reading
select cluster, node, boot_id, sampler_run, seq, line, 'cray_pm:node', line * 1000, null from tick;
create table cut as select * from interval_energy;
update cut set energy_uj = energy_uj - 1 where pool = 'rest';
create or replace view interval_energy as select * from cut;
