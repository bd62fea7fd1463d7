-- Time without known energy, and why. Grain: (cluster, node, region, slot_at_utc, reason).
-- seconds: of node time, averaged over the node's counters.
create or replace view unknown_time as
with counters as (
    select cluster, node, slot_at_utc, count(distinct zone) as zones
    from interval_energy
    group by cluster, node, slot_at_utc
)

select
    i.cluster,
    i.node,
    r.region,
    i.slot_at_utc,
    i.reason,
    sum(i.ended_us - i.began_us) / 1e6 / nullif(max(c.zones), 0) as seconds
from interval_energy as i
inner join counters as c on i.cluster = c.cluster and i.node = c.node and i.slot_at_utc = c.slot_at_utc
left join node_region as r on i.cluster = r.cluster and i.node = r.node
where i.energy_uj is null
group by i.cluster, i.node, r.region, i.slot_at_utc, i.reason;
