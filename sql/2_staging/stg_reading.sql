-- Good readings of the counters that count, with the node's busy time at the same tick.
-- Grain: (cluster, node, boot_id, zone, boottime_ns). A failed read is not here: it widens an interval, and loses nothing.
-- max_uw: published, else 700 W a package, 250 W a dram zone, 1500 W a GPU, 5 kW a node (docs/meters.md).
-- busy_us is null where /proc/stat could not be read. boot_began_at_utc orders the boots of a node.
create or replace view stg_reading as
with counted_zone as (
    select
        cluster,
        node,
        boot_id,
        sampler_run,
        zone,
        domain,
        split_part(zone, ':', 1) as meter,
        case domain when 'package' then 'cpu' when 'dram' then 'dram' when 'gpu' then 'gpu' else 'rest' end as pool,
        wrap_uj,
        method,
        coalesce(
            max_uw,
            case domain
                when 'package' then 700000000 when 'dram' then 250000000 when 'gpu' then 1500000000 else 5000000000
            end
        ) as max_uw
    from zone
    where used
),

node_busy as (
    select cluster, node, boot_id, sampler_run, seq, line, cast(sum(busy_us) as bigint) as busy_us
    from busy
    group by cluster, node, boot_id, sampler_run, seq, line
),

boot as (
    select cluster, node, boot_id, min(read_at_utc) as boot_began_at_utc
    from tick
    group by cluster, node, boot_id
)

select
    r.cluster,
    r.node,
    r.boot_id,
    r.sampler_run,
    r.seq,
    r.line,
    r.zone,
    z.meter,
    z.domain,
    z.pool,
    z.method,
    z.wrap_uj,
    z.max_uw,
    s.interval_ns,
    s.manager,
    b.boot_began_at_utc,
    t.read_at_utc,
    t.boottime_ns,
    r.counter_uj,
    n.busy_us
from reading as r
inner join tick as t
    on
        r.cluster = t.cluster and r.node = t.node and r.boot_id = t.boot_id
        and r.sampler_run = t.sampler_run and r.seq = t.seq and r.line = t.line
inner join counted_zone as z
    on
        r.cluster = z.cluster and r.node = z.node and r.boot_id = z.boot_id
        and r.sampler_run = z.sampler_run and r.zone = z.zone
inner join segment as s
    on
        r.cluster = s.cluster and r.node = s.node and r.boot_id = s.boot_id
        and r.sampler_run = s.sampler_run and r.seq = s.seq
inner join boot as b on r.cluster = b.cluster and r.node = b.node and r.boot_id = b.boot_id
left join node_busy as n
    on
        r.cluster = n.cluster and r.node = n.node and r.boot_id = n.boot_id
        and r.sampler_run = n.sampler_run and r.seq = n.seq and r.line = n.line
where r.counter_uj is not null;
