-- Energy between two consecutive good readings of one counter, cut at the base slots.
-- Grain: (cluster, node, zone, began_us, slot_at_utc). began_us, ended_us: the piece, UTC microseconds.
-- A zone of pool rest is a node meter less the other counters of the node; all zones of a node add up to its node meter.
-- energy_uj is null where it is unknown; reason then says why. The rule (docs/meters.md, "difference of two readings"):
--   reset        another boot, a counter that began anew (NAME#2), or one that fell and whose range is not published
--   ambiguous    a whole range may hide in the interval: highest power x time >= 0.8 x range
--   implausible  more than 1.5 x highest power x time (20 ms are added for the counter's own update time)
-- A failed read widened the interval already. is_hole: readings are missing, longer than two ticks.
create or replace view interval_energy as
with pair as (
    select
        *,
        lag(counter_uj) over counter as before_uj,
        lag(boottime_ns) over counter as before_ns,
        lag(boot_id) over counter as before_boot,
        lag(zone) over counter as before_zone,
        lag(read_at_utc) over counter as before_at_utc,
        lag(busy_us) over counter as before_busy_us
    from stg_reading
    -- NAME#2 is the same device with a counter that began anew: one line of readings, but no difference across.
    window counter as (
        partition by cluster, node, split_part(zone, '#', 1) order by boot_began_at_utc, boot_id, boottime_ns
    )
),

timed as (
    select
        *,
        (boot_id is distinct from before_boot) as is_reboot,
        -- Elapsed time is CLOCK_BOOTTIME's; the place on the UTC line is the later reading's.
        case
            when boot_id = before_boot then boottime_ns - before_ns
            else greatest(0, utc_us(read_at_utc) - utc_us(before_at_utc)) * 1000
        end as elapsed_ns
    from pair
    where before_uj is not null
),

bounded as (
    select
        *,
        mul_div(max_uw, elapsed_ns + 20000000, 1000000000) as bound_uj,
        case
            when counter_uj >= before_uj then counter_uj - before_uj
            when wrap_uj is not null then counter_uj - before_uj + wrap_uj
        end as delta_uj
    from timed
    where elapsed_ns > 0
),

judged as (
    select
        *,
        case
            when is_reboot then 'reset: the node was started again'
            when zone <> before_zone then 'reset: the counter began anew'
            when wrap_uj is not null and mul_div(bound_uj, 5, 4) >= wrap_uj then 'ambiguous: a whole range may hide'
            when delta_uj is null or delta_uj < 0 then 'reset: the counter fell'
            when delta_uj > mul_div(bound_uj, 3, 2) then 'implausible: more than the counter can count'
        end as reason
    from bounded
),

placed as (
    select
        *,
        utc_us(read_at_utc) as ended_us,
        utc_us(read_at_utc) - elapsed_ns // 1000 as began_us,
        case when reason is null then delta_uj end as energy_uj,
        case when busy_us >= before_busy_us then busy_us - before_busy_us end as elapsed_busy_us
    from judged
),

-- A node meter contains what the other counters count. Its interval holds their intervals that end within it.
within_node as (
    select
        *,
        min(case when domain = 'node' then boottime_ns end) over (
            partition by cluster, node, boot_id order by boottime_ns
            range between current row and unbounded following
        ) as node_ended_ns
    from placed
),

component as (
    select cluster, node, boot_id, node_ended_ns, cast(sum(energy_uj) as bigint) as energy_uj
    from within_node
    where domain <> 'node' and node_ended_ns is not null
    group by cluster, node, boot_id, node_ended_ns
),

-- rest = node meter - components, signed: meters differ by their update times, and what one interval has too much the
-- next has too little. A component that is unknown here is part of the rest.
settled as (
    select
        w.* exclude (energy_uj),
        case when w.domain = 'node' then w.energy_uj - coalesce(c.energy_uj, 0) else w.energy_uj end as energy_uj
    from within_node as w
    left join component as c
        on
            w.domain = 'node' and w.cluster = c.cluster and w.node = c.node and w.boot_id = c.boot_id
            and w.boottime_ns = c.node_ended_ns
),

cut as (
    select
        p.*,
        s.slot_at_utc,
        greatest(p.began_us, utc_us(s.slot_at_utc)) as piece_began_us,
        least(p.ended_us, utc_us(s.slot_at_utc) + 900000000) as piece_ended_us
    from settled as p
    inner join slot as s
        on utc_us(s.slot_at_utc) < p.ended_us and utc_us(s.slot_at_utc) + 900000000 > p.began_us
),

shared as (
    select
        *,
        mul_div(abs(energy_uj), piece_ended_us - piece_began_us, ended_us - began_us) as base_uj,
        mul_mod(abs(energy_uj), piece_ended_us - piece_began_us, ended_us - began_us) as left_over,
        mul_div(elapsed_busy_us, piece_ended_us - piece_began_us, ended_us - began_us) as piece_busy_us
    from cut
),

-- Largest remainder: the microjoules that rounding down left go to the pieces that lost most.
ranked as (
    select
        *,
        abs(energy_uj) - sum(base_uj) over piece_of as missing_uj,
        row_number() over (
            partition by cluster, node, zone, ended_us, boottime_ns order by left_over desc, slot_at_utc asc
        ) as place
    from shared
    window piece_of as (partition by cluster, node, zone, ended_us, boottime_ns)
)

select
    cluster,
    node,
    boot_id,
    zone,
    meter,
    pool,
    method,
    slot_at_utc,
    piece_began_us as began_us,
    piece_ended_us as ended_us,
    -- The same piece on the node's own clock, for what the node recorded.
    boottime_ns - (ended_us - piece_began_us) * 1000 as began_ns,
    boottime_ns - (ended_us - piece_ended_us) * 1000 as ended_ns,
    case when is_reboot then null else before_ns end as reading_began_ns,
    boottime_ns as reading_ended_ns,
    sampler_run,
    seq,
    line,
    -- Split as an amount, then given its sign: only a rest can be negative.
    cast((base_uj + case when place <= missing_uj then 1 else 0 end) * sign(energy_uj) as bigint) as energy_uj,
    reason,
    piece_busy_us as busy_us,
    manager,
    elapsed_ns > 2 * interval_ns + 1000000000 as is_hole
from ranked;
