-- The segments of one load, by file.
create or replace temp table batch (
    file varchar primary key, cluster varchar, node varchar, boot_id varchar, sampler_run varchar, seq integer
)
