-- The journal: every known microjoule of every counter that counts, booked to exactly one account.
-- Grain: (cluster, node, zone, began_us, account, run_key). account: job, unallocated, system or gap; run_key is '' but
-- for jobs. A job's energy_uj = own_use_uj + own_idle_uj + system_share_uj; these are null for the other accounts.
--
-- The rule, reserve-static-use-dynamic (docs/attribution.md): what a node burns while it is merely held goes by
-- reservation, what it burns on top goes by use.
--   E_st = min(E, P_idle x dt), E_dy = E - E_st; where nothing was used E_st = E
--   E_dy is split by CPU time among the runs and the system (busy time that no run accounts for)
--   E_st, and the system's part of E_dy, are split by what the runs hold of the node and for how long;
--   what nobody holds stays unallocated, and system.
-- Each of the three splits is exact: floors by mul_div, then largest remainder, ties by run key, nobody last.
-- Energy over a hole in the readings can be claimed by nobody before Slurm's records of that time are here: gap.
create or replace view booking as
with covered as (
    select cluster, min(utc_us(from_utc)) as from_us, max(utc_us(to_utc)) as to_us
    from slurm_coverage
    group by cluster
),

piece as (
    select
        i.cluster, i.node, i.boot_id, i.zone, i.meter, i.method, i.pool, i.slot_at_utc, i.began_us, i.began_ns, i.ended_ns,
        i.reading_began_ns, i.reading_ended_ns, i.energy_uj, i.busy_us,
        i.is_hole and i.manager = 'slurm' and not coalesce(i.began_us >= v.from_us and i.ended_us <= v.to_us, false)
            as is_gap,
        n.cpus as node_cpus,
        n.memory_bytes as node_memory_bytes,
        n.gpus as node_gpus,
        -- A zone's own name: what a mark says of a device that a run was given.
        split_part(split_part(i.zone, ':', 2), '#', 1) as device,
        case i.pool when 'dram' then n.memory_bytes when 'cpu' then n.cpus when 'gpu' then 1 else 1000000000 end as capacity,
        mul_div(coalesce(c.idle_uw, 0), i.ended_us - i.began_us, 1000000) as idle_uj
    from interval_energy as i
    inner join stg_node as n
        on
            i.cluster = n.cluster and i.node = n.node
            and i.slot_at_utc >= n.valid_from_utc and i.slot_at_utc < n.valid_to_utc
    left join stg_calibration as c
        on
            i.cluster = c.cluster and i.node = c.node and i.zone = c.zone
            and i.slot_at_utc >= c.valid_from_utc and i.slot_at_utc < c.valid_to_utc
    left join covered as v on i.cluster = v.cluster
    where i.energy_uj is not null
),

-- The runs whose life touches the piece: for how long, what they hold here, what CPU time they used.
present as (
    select
        p.cluster, p.node, p.zone, p.began_us, r.run_key,
        least(r.ended_ns, p.ended_ns) - greatest(r.began_ns, p.began_ns) as overlap_ns,
        case
            when r.cpus >= p.node_cpus then p.capacity -- holds every CPU: nobody else can be here
            when p.pool = 'cpu' then coalesce(r.cpus, 0)
            when p.pool = 'dram'
                then coalesce(least(r.memory_bytes, p.capacity), mul_div(p.capacity, r.cpus, p.node_cpus), 0)
            when p.pool = 'gpu' then case when list_contains(string_split(r.gpus, ','), p.device) then 1 else 0 end
            -- Of the rest of the node as much as of its scarcest part, in parts per billion.
            else greatest(
                coalesce(mul_div(p.capacity, r.cpus, p.node_cpus), 0),
                coalesce(mul_div(p.capacity, r.memory_bytes, p.node_memory_bytes), 0),
                coalesce(mul_div(p.capacity, len(string_split(r.gpus, ',')), p.node_gpus), 0)
            )
        end as held,
        p.pool,
        r.gpus,
        p.device,
        coalesce(at_end.cpu_us, case when r.last_seen_ns <= p.reading_ended_ns then r.cpu_us end, 0)
        - coalesce(at_begin.cpu_us, case when r.last_seen_ns <= p.reading_began_ns then r.cpu_us end, 0) as use_us,
        p.ended_ns - p.began_ns as piece_ns,
        p.reading_ended_ns - p.reading_began_ns as interval_ns
    from piece as p
    inner join stg_run as r
        on
            p.cluster = r.cluster and p.node = r.node and p.boot_id = r.boot_id
            and r.began_ns < p.ended_ns and r.ended_ns > p.began_ns
    left join stg_use as at_end
        on
            p.cluster = at_end.cluster and p.node = at_end.node and p.boot_id = at_end.boot_id
            and r.run_key = at_end.run_key and p.reading_ended_ns = at_end.boottime_ns
    left join stg_use as at_begin
        on
            p.cluster = at_begin.cluster and p.node = at_begin.node and p.boot_id = at_begin.boot_id
            and r.run_key = at_begin.run_key and p.reading_began_ns = at_begin.boottime_ns
    where not p.is_gap
),

-- Each piece's claimants with their two weights: time x holding, and use. Nobody ('') has what is left of both.
claimed as (
    select
        cluster, node, zone, began_us, run_key,
        cast(held as hugeint) * overlap_ns as hold_weight,
        case
            -- A whole GPU is used by whoever holds it.
            when pool = 'gpu' then case when list_contains(string_split(gpus, ','), device) then overlap_ns else 0 end
            else coalesce(mul_div(greatest(0, use_us), piece_ns, interval_ns), 0)
        end as use_weight
    from present
),

total as (
    select
        cluster, node, zone, began_us,
        sum(hold_weight) as hold_weight,
        sum(use_weight) as use_weight
    from claimed
    group by cluster, node, zone, began_us
),

claim as (
    select cluster, node, zone, began_us, run_key, hold_weight, use_weight
    from claimed
    union all
    select
        p.cluster, p.node, p.zone, p.began_us, '' as run_key,
        greatest(0, cast(p.capacity as hugeint) * (p.ended_ns - p.began_ns) - coalesce(t.hold_weight, 0)) as hold_weight,
        case
            when p.pool = 'gpu' then 0
            else greatest(0, coalesce(p.busy_us, 0) - coalesce(t.use_weight, 0))
        end as use_weight
    from piece as p
    left join total as t
        on p.cluster = t.cluster and p.node = t.node and p.zone = t.zone and p.began_us = t.began_us
    where not p.is_gap
),

weighed as (
    select
        c.*,
        -- A negative rest goes back by reservation: it is split as an amount, then given its sign again.
        abs(p.energy_uj) as energy_uj,
        case when p.energy_uj < 0 then -1 else 1 end as energy_sign,
        sum(c.hold_weight) over of_piece as all_hold,
        sum(c.use_weight) over of_piece as all_use,
        case
            when p.energy_uj < 0 or sum(c.use_weight) over of_piece = 0 then abs(p.energy_uj)
            else least(p.energy_uj, p.idle_uj)
        end as static_uj
    from claim as c
    inner join piece as p
        on c.cluster = p.cluster and c.node = p.node and c.zone = p.zone and c.began_us = p.began_us
    window of_piece as (partition by c.cluster, c.node, c.zone, c.began_us)
),

floored as (
    select
        *,
        coalesce(mul_div(energy_uj - static_uj, use_weight, all_use), 0) as use_floor,
        coalesce(mul_mod(energy_uj - static_uj, use_weight, all_use), 0) as use_rest,
        coalesce(mul_div(static_uj, hold_weight, all_hold), 0) as idle_floor,
        coalesce(mul_mod(static_uj, hold_weight, all_hold), 0) as idle_rest
    from weighed
),

ranked as (
    select
        *,
        energy_uj - static_uj - sum(use_floor) over of_piece as use_missing,
        static_uj - sum(idle_floor) over of_piece as idle_missing,
        row_number() over (
            partition by cluster, node, zone, began_us order by use_rest desc, (run_key = '') asc, run_key asc
        ) as use_place,
        row_number() over (
            partition by cluster, node, zone, began_us order by idle_rest desc, (run_key = '') asc, run_key asc
        ) as idle_place
    from floored
    window of_piece as (partition by cluster, node, zone, began_us)
),

split as (
    select
        cluster, node, zone, began_us, run_key, hold_weight, all_hold, energy_sign,
        use_floor + case when use_place <= use_missing then 1 else 0 end as use_uj,
        idle_floor + case when idle_place <= idle_missing then 1 else 0 end as idle_uj
    from ranked
),

-- What the system used is carried by those who hold the node.
system_floored as (
    select
        *,
        sum(case when run_key = '' then use_uj else 0 end) over of_piece as system_uj,
        coalesce(
            mul_div(sum(case when run_key = '' then use_uj else 0 end) over of_piece, hold_weight, all_hold), 0
        ) as share_floor,
        coalesce(
            mul_mod(sum(case when run_key = '' then use_uj else 0 end) over of_piece, hold_weight, all_hold), 0
        ) as share_rest
    from split
    window of_piece as (partition by cluster, node, zone, began_us)
),

system_ranked as (
    select
        *,
        system_uj - sum(share_floor) over of_piece as share_missing,
        row_number() over (
            partition by cluster, node, zone, began_us order by share_rest desc, (run_key = '') asc, run_key asc
        ) as share_place
    from system_floored
    window of_piece as (partition by cluster, node, zone, began_us)
),

settled as (
    select
        cluster, node, zone, began_us, run_key,
        case when run_key = '' then 0 else use_uj end as use_uj,
        idle_uj * energy_sign as idle_uj,
        share_floor + case when share_place <= share_missing then 1 else 0 end as share_uj
    from system_ranked
),

entry as (
    select
        cluster, node, zone, began_us, 'job' as account, run_key, use_uj + idle_uj + share_uj as energy_uj,
        use_uj as own_use_uj, idle_uj as own_idle_uj, share_uj as system_share_uj
    from settled
    where run_key <> ''
    union all
    select cluster, node, zone, began_us, 'unallocated', '', idle_uj, null, null, null
    from settled
    where run_key = ''
    union all
    select cluster, node, zone, began_us, 'system', '', share_uj, null, null, null
    from settled
    where run_key = ''
    union all
    select cluster, node, zone, began_us, 'gap', '', energy_uj, null, null, null
    from piece
    where is_gap
)

select
    e.cluster,
    e.node,
    e.zone,
    p.meter,
    p.method,
    p.pool,
    p.slot_at_utc,
    e.began_us,
    e.account,
    e.run_key,
    cast(e.energy_uj as bigint) as energy_uj,
    cast(e.own_use_uj as bigint) as own_use_uj,
    cast(e.own_idle_uj as bigint) as own_idle_uj,
    cast(e.system_share_uj as bigint) as system_share_uj
from entry as e
inner join piece as p
    on e.cluster = p.cluster and e.node = p.node and e.zone = p.zone and e.began_us = p.began_us;
