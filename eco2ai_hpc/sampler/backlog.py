"""What waits for a disk that does not take it: lines in memory, bounded, thinned so that no energy is lost.

A counter carries its energy on by itself, so a reading may be left out as long as the counter cannot come round
between its neighbours: the reader (sql/3_interval) takes an interval for ambiguous from 0.8 x range / highest power.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from eco2ai_hpc import spool
from eco2ai_hpc.units import NS_PER_S

DEFAULT_MAX_UW = {"package": 700_000_000, "dram": 250_000_000, "gpu": 1_500_000_000}
NODE_MAX_UW = 5_000_000_000
"""The highest power where a zone publishes none; the same stand in sql/2_staging/stg_reading.sql."""
WAITING_EDGES = 10_000
WAITING_BYTES = 8 << 20
_LONGEST_NS = 900 * NS_PER_S  # the books' slot: no reading is further from the next where ticks are thinned
_ENTRY_BYTES, _ZONE_BYTES = 200, 64  # what Python adds to a line

Header = Mapping[str, Any]


class Entry(NamedTuple):
    """One line on its way to the disk."""

    kind: str
    boot_ns: int
    data: bytes
    header: Header
    """Of the segment that it belongs into."""
    zones: frozenset[str] = frozenset()
    """The counters that a tick read."""

    @property
    def size(self) -> int:
        return len(self.data) + _ENTRY_BYTES + _ZONE_BYTES * len(self.zones)


def entry(line: spool.Line, header: Header) -> Entry:
    return Entry(line["k"], line.get("bt", 0), spool.encode(line), header, frozenset(line.get("c", ())))


def longest_ns(zones: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Zone key -> how far apart two readings of it may be: 0.75 x range / highest power, at most a slot."""
    limits = {}
    for key, zone in zones.items():
        if zone["used"]:
            highest_uw = zone["max_uw"] or DEFAULT_MAX_UW.get(zone["domain"], NODE_MAX_UW)
            limits[key] = _LONGEST_NS
            if zone["wrap"]:
                limits[key] = min(_LONGEST_NS, zone["wrap"] * 3 * NS_PER_S // (4 * highest_uw))
    return limits


class Backlog:
    """Job edges, and ticks; in the order in which they came, edges first."""

    def __init__(self) -> None:
        self.thinned_since_ns: int | None = None
        """The oldest tick that waited when ticks were left out; None: none were since `take`."""
        self._edges: deque[Entry] = deque(maxlen=WAITING_EDGES)
        self._ticks: list[Entry] = []
        self._tick_bytes = 0
        self._limits: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def expect(self, zones: Mapping[str, Mapping[str, Any]]) -> None:
        """Learn the counters of a header; a key never changes its meaning."""
        self._limits |= longest_ns(zones)

    def add(self, new: Entry) -> None:
        if new.kind != "tick":
            self._edges.append(new)
            return
        self._ticks.append(new)
        self._tick_bytes += new.size
        if self._tick_bytes > WAITING_BYTES:
            self.thin()
            self._drop_oldest(WAITING_BYTES * 3 // 4)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """What was taken and could not be written goes before what came since."""
        entries = list(entries)
        came_since = [*self._edges, *self._ticks]
        self._edges.clear()
        self._ticks, self._tick_bytes, self._seen = [], 0, {}
        for one in (*entries, *came_since):
            self.add(one)

    def take(self, *, thinned: bool = False) -> deque[Entry]:
        """Everything; `thinned`: only the ticks that are needed. The last waits: the next one shows whether it is."""
        held = []
        if thinned:
            self.thin()
            held = self._ticks[-1:]
            del self._ticks[-1:]
        for tick in self._ticks:
            self._seen |= dict.fromkeys(tick.zones, tick.boot_ns)
        taken = deque([*self._edges, *self._ticks])
        self._edges.clear()
        self._ticks, self._tick_bytes = held, sum(tick.size for tick in held)
        self.thinned_since_ns = None
        return taken

    def thin(self) -> None:
        """Leave out every tick but those without which a counter's next interval would be ambiguous, and the last."""
        if not self._ticks:
            return
        seen = dict(self._seen)
        kept = []
        for tick, following in pairwise(self._ticks):
            if self._is_needed(tick, following, seen):
                kept.append(tick)
                seen |= dict.fromkeys(tick.zones, tick.boot_ns)
        kept.append(self._ticks[-1])
        self._replace(kept)

    def _is_needed(self, tick: Entry, following: Entry, seen: Mapping[str, int]) -> bool:
        return any(
            zone not in following.zones or zone not in seen or following.boot_ns - seen[zone] > limit
            for zone, limit in self._limits.items()
            if zone in tick.zones
        )

    def _drop_oldest(self, limit_bytes: int) -> None:
        """Where even the needed ones are too many: one long unknown interval, and whole ones after it."""
        kept = deque(self._ticks)
        size = self._tick_bytes
        while size > limit_bytes and len(kept) > 1:
            size -= kept.popleft().size
        self._replace(list(kept))

    def _replace(self, kept: list[Entry]) -> None:
        if len(kept) < len(self._ticks) and self.thinned_since_ns is None:
            self.thinned_since_ns = self._ticks[0].boot_ns
        self._ticks = kept
        self._tick_bytes = sum(tick.size for tick in kept)
