-- What can be allocated on a node. Grain: (cluster, node, valid_from_utc); the first row holds for all time before it.
-- A node that Slurm said nothing about has what its kernel shows.
create or replace view stg_node as
with spec as (
    select cluster, node, valid_from_utc, cpus, memory_bytes, gpus, source
    from node_spec
    union all
    select cluster, node, min(ingested_at_utc), max(cpus), max(memory_bytes), null, 'header'
    from segment as s
    where
        cpus is not null
        and not exists (select 1 from node_spec as n where n.cluster = s.cluster and n.node = s.node)
    group by cluster, node
),

ordered as (
    select
        *,
        lead(valid_from_utc) over (partition by cluster, node order by valid_from_utc) as valid_to_utc,
        row_number() over (partition by cluster, node order by valid_from_utc) as place
    from spec
)

select
    cluster,
    node,
    case when place = 1 then timestamp '1970-01-01 00:00:00' else valid_from_utc end as valid_from_utc,
    coalesce(valid_to_utc, timestamp '9999-01-01 00:00:00') as valid_to_utc,
    cpus,
    memory_bytes,
    gpus,
    source
from ordered;
