"""The sampler's loop: wait, take in job marks, read meters and jobs, append one line.

    poke or deadline -> marks -> look at jobs -> tick (clock | start | end | mark | stop) -> evidence -> socket

Ticks fall on wall-clock multiples of the interval; a job's edge gets a reading of its own at once, and further edges
within EDGE_WINDOW share the next one, so that a storm of short jobs costs at most four readings a second.
"""

import contextlib
import os
import select
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from eco2ai_hpc import __version__, meters, spool
from eco2ai_hpc.model import Roots, Zone
from eco2ai_hpc.sampler.backlog import DEFAULT_MAX_UW, NODE_MAX_UW
from eco2ai_hpc.sampler.evidence import AS_USUAL, Evidence, Keeping
from eco2ai_hpc.sampler.host import Host, Moment
from eco2ai_hpc.sampler.instruments import Instruments
from eco2ai_hpc.sampler.marks import RunDirectory
from eco2ai_hpc.sampler.peers import PROC
from eco2ai_hpc.sampler.provisional import Provisional
from eco2ai_hpc.sampler.requests import Requests
from eco2ai_hpc.sampler.runs import Runs, close_earlier_boot
from eco2ai_hpc.sampler.selfreport import SelfReport
from eco2ai_hpc.sampler.service import RequestError, Service
from eco2ai_hpc.sampler.tails import Tails
from eco2ai_hpc.units import NS_PER_S

EDGE_WINDOW_NS = NS_PER_S // 4
MARK_WINDOW_NS = NS_PER_S
SEAL_AFTER_JOB_NS = 60 * NS_PER_S
FLUSH_NS = 60 * NS_PER_S
_SHORTEST_INTERVAL_S = 1.0


class Settings(NamedTuple):
    """Everything `eco2ai-sampler run` was told."""

    cluster: str
    node: str
    spool_dir: str
    run_dir: str
    roots: Roots
    interval_s: float = 30.0
    seal_s: float = 300.0
    manager: str = "slurm"
    options: meters.Options = meters.Options()
    keeping: Keeping = AS_USUAL


def safe_interval_s(asked_s: float, zones: tuple[Zone, ...]) -> float:
    """The interval asked for, or less where a counter could wrap within it: 0.4 x range / highest power.

    No counter brings it below a second: one with an absurd range is not worth a busy loop, its wraps stay unknown.
    """
    allowed = asked_s
    for zone in zones:
        if zone.used and zone.wrap_uj:
            highest_uw = zone.max_uw or DEFAULT_MAX_UW.get(zone.domain, NODE_MAX_UW)
            allowed = min(allowed, max(0.4 * zone.wrap_uj / highest_uw, _SHORTEST_INTERVAL_S))
    return allowed


class Sampler:
    """One node's sampler. `run` returns after `stop` was called, with the last segment sealed."""

    def __init__(
        self,
        settings: Settings,
        host: Host,
        opened: list[meters.Outcome],
        clock: Callable[[], Moment] = Moment.now,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._host = host
        self._instruments = Instruments(opened)
        self._interval_ns = self._safe_interval_ns()
        self._run_id = spool.new_run_id()
        self._directory = RunDirectory(settings.run_dir)
        self._spool_directory = spool.node_directory(settings.spool_dir, settings.cluster, settings.node)
        self.evidence = Evidence(self._spool_directory, self._header(), settings.keeping)
        cpus = host.description.cpus
        tails = Tails(settings.roots, settings.node, cpus)
        self.runs = Runs(self._directory, self.evidence, tails, self._run_id, self._instruments.devices_of)
        self._provisional = Provisional(cpus)
        self._report = SelfReport()
        self._requests = Requests(
            PROC, settings.node, self.runs.alive, self._provisional, self.evidence,
            on_mark=self._plan_mark_tick, root={"tick": self._tick_at_once, "status": self._status},
        )  # fmt: skip
        self._service: Service | None = None
        self._last_edge_ns = 0
        self._flushed_ns = 0
        self._job_ended = False
        self._next_tick_wall_ns = 0
        self._last_tick_ns = 0
        self._mark_due_ns: int | None = None
        self._last_mark_ns = 0
        self._last_tick_at: Moment | None = None
        self._stopping = False

    def _safe_interval_ns(self) -> int:
        return round(safe_interval_s(self.settings.interval_s, self._instruments.zones) * NS_PER_S)

    def _header(self) -> dict[str, Any]:
        about = self._host.description
        return {
            "k": "header",
            "v": spool.VERSION,
            "cluster": self.settings.cluster,
            "node": self.settings.node,
            "boot": about.boot_id,
            "sampler": self._run_id,
            "interval_s": self._interval_ns / NS_PER_S,
            "software": __version__,
            "cpus": about.cpus,
            "sockets": about.sockets,
            "mem_mib": about.mem_mib,
            "cpu_model": about.cpu_model,
            "manager": self.settings.manager,
            "zones": self._instruments.described(),
        }

    def stop(self) -> None:
        """Ask the loop to end; safe in a signal handler."""
        self._stopping = True

    def prepare(self) -> None:
        """Make what `run` needs in the run directory."""
        self._directory.prepare()

    def run(self, wakeup_fd: int | None = None) -> None:
        """Sample until stopped. `wakeup_fd` (signal.set_wakeup_fd) ends a wait early."""
        self.prepare()
        poke = os.open(self._directory.poke, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        waiter = select.poll()
        for descriptor in {poke, wakeup_fd} - {None}:
            waiter.register(descriptor, select.POLLIN)  # type: ignore[arg-type]
        try:
            self.begin(self._clock())
            self.listen()
            while not self._stopping:
                ready = self._wait(waiter)
                if poke in ready:
                    _drain(poke)
                self.step(self._clock())
                self._serve(ready)
            self.end(self._clock())
        finally:
            os.close(poke)

    def _wait(self, waiter: select.poll) -> set[int]:
        """Until something is due or somebody calls; returns the descriptors that have something to read.

        Between two rounds nobody looks at the socket: what asks there all the time would end each wait at once.
        """
        now = self._clock()
        wait_ms = self._wait_ms(now)
        service = self._service
        if service is None:
            return _ready(waiter.poll(wait_ms))
        if rests_ns := service.rests_ns(now):
            return _ready(waiter.poll(min(wait_ms, rests_ns // 1_000_000 + 1)))
        waiter.register(service, select.POLLIN)
        try:
            return _ready(waiter.poll(wait_ms))
        finally:
            waiter.unregister(service)

    def listen(self) -> None:
        """Open the socket; a node without one is sampled all the same."""
        with contextlib.suppress(OSError):
            self._service = Service(self.settings.run_dir, self._requests.answer)

    def _serve(self, ready: set[int]) -> None:
        if self._service is not None:
            now = self._clock()
            if self._service.fileno() in ready:
                self._service.serve(now)
            self._service.drop_silent(now)

    def begin(self, now: Moment) -> None:
        """Take over what an earlier sampler left, and read once."""
        self.evidence.recover()
        self._close_earlier_boot(now)
        self.runs.resume(now)
        self._tick("clock", now)
        self._plan_tick(now)
        self.step(now)

    def _close_earlier_boot(self, now: Moment) -> None:
        earlier, taken_along = self._directory.forget_other_boots(self._host.description.boot_id, now)
        if taken_along:
            header = self._header() | {"boot": earlier, "zones": {}}
            evidence = Evidence(self._spool_directory, header, self.settings.keeping)
            close_earlier_boot(self._directory, earlier, taken_along, evidence)

    def step(self, now: Moment) -> None:
        """Everything that is due now."""
        self._instruments.poll(now)
        self._take_marks(now)
        self.runs.poll_if_due(now)
        if self.runs.close_lost(now):
            self._job_ended = True
        if now.wall_ns >= self._next_tick_wall_ns or now.boot_ns >= self._latest_tick_ns():
            self.runs.poll(now)
            self._tick("clock", now, self._late_ns(now))
            self._plan_tick(now)
        elif self._mark_due_ns is not None and now.boot_ns >= self._mark_due_ns:
            self.runs.poll(now)
            self._tick("mark", now)
        self._seal_if_due(now)

    def end(self, now: Moment) -> None:
        """The last reading, and a sealed segment."""
        if self._service is not None:
            self._service.close()
            self._service = None
        self._take_marks(now, at_once=True)
        self.runs.poll(now)
        self._tick("stop", now)
        self._note_self(now)
        self.evidence.close(now)
        self.close()

    def close(self) -> None:
        """Give descriptors back."""
        self.runs.close()
        self._instruments.close()

    def _wait_ms(self, now: Moment) -> int:
        ns = min(self._next_tick_wall_ns - now.wall_ns, self._latest_tick_ns() - now.boot_ns)
        deadlines = [self._instruments.next_poll_ns()]
        if self.runs.alive:
            deadlines.append(self.runs.next_poll_ns())
        if self._mark_due_ns is not None:
            deadlines.append(self._mark_due_ns)
        if now.boot_ns - self._last_edge_ns < EDGE_WINDOW_NS:
            deadlines.append(self._last_edge_ns + EDGE_WINDOW_NS)
        ns = min(ns, *(deadline - now.boot_ns for deadline in deadlines if deadline is not None), self._interval_ns)
        return max(1, ns // 1_000_000 + 1)

    def _latest_tick_ns(self) -> int:
        """When to read at the latest, whatever the wall clock says: it may have been set back."""
        return self._last_tick_ns + self._interval_ns * 5 // 4

    def _late_ns(self, now: Moment) -> int:
        """How much later than planned; by whichever clock called for the tick."""
        return max(0, min(now.wall_ns - self._next_tick_wall_ns, self._interval_ns))

    def _plan_tick(self, now: Moment) -> None:
        self._next_tick_wall_ns = (now.wall_ns // self._interval_ns + 1) * self._interval_ns

    def _plan_mark_tick(self) -> None:
        """A job's own mark gets a reading too, but not more than one a second."""
        if self._mark_due_ns is None:
            self._mark_due_ns = self._last_mark_ns + MARK_WINDOW_NS

    def _take_marks(self, now: Moment, *, at_once: bool = False) -> None:
        if not at_once and now.boot_ns - self._last_edge_ns < EDGE_WINDOW_NS:
            return
        starts, ends = self.runs.pending(now)
        if not starts and not ends:
            return
        self._last_edge_ns = now.boot_ns
        self.runs.finish(ends, now)
        for mark in starts:
            self.runs.start(mark, now)
        self._tick("end" if ends and not starts else "start", now)
        for run_key, mark in ends:
            self.runs.end(run_key, mark, now)
            self._job_ended = True

    def _tick(self, why: str, now: Moment, late_ns: int = 0) -> None:
        counters: dict[str, int] = {}
        errors: dict[str, str] = {}
        moment = self._clock()
        self._last_tick_ns, self._last_tick_at = moment.boot_ns, moment
        self._instruments.read(counters, errors)
        if self._instruments.has_changed():
            self._describe_anew(now)
        line: dict[str, Any] = {"k": "tick", "t": moment.utc(), "bt": moment.boot_ns, "why": why, "c": counters}
        if errors:
            line["err"] = errors
        busy = self._busy_us()
        line["busy"] = busy
        line["mem"] = self._host.memory_used_bytes()
        line["jobs"] = {key: run.entry() for key, run in self.runs.alive.items()}
        self.evidence.tick(line, now)
        self._report.ticked(late_ns, len(errors))
        self._provisional.tick(
            moment.boot_ns, self._instruments.zones, counters, sum(busy.values()) if busy else None,
            self.runs.alive.values(),
        )  # fmt: skip
        self.runs.save(self._host.description.boot_id, moment)
        if self._mark_due_ns is not None:  # any reading will do
            self._mark_due_ns, self._last_mark_ns = None, now.boot_ns

    def _busy_us(self) -> dict[str, int]:
        try:
            return self._host.busy_us()
        except (OSError, ValueError):
            return {}

    def _describe_anew(self, now: Moment) -> None:
        """Zones came or went: this reading begins a segment whose header knows them."""
        self._note_self(now)
        self._interval_ns = self._safe_interval_ns()
        self.evidence.describe(self._header())

    def _note_self(self, now: Moment) -> None:
        self.evidence.note(self._report.line(now, self.runs.poll_ns), now)

    def _seal_if_due(self, now: Moment) -> None:
        age_ns = now.boot_ns - self.evidence.opened_ns
        seal_ns = round(self.settings.seal_s * NS_PER_S)
        # Nodes must not seal in step: each seals later by what its name says.
        due = age_ns > seal_ns + self._spread_ns(seal_ns)
        if due or (self._job_ended and age_ns > min(SEAL_AFTER_JOB_NS, seal_ns)):
            if self.evidence.lines:
                self._note_self(now)
            self.evidence.seal()
            self._job_ended = False
        elif now.boot_ns - self._flushed_ns + self._interval_ns > FLUSH_NS:  # the next step may be an interval away
            self.evidence.flush()
            self._flushed_ns = now.boot_ns

    def _spread_ns(self, seal_ns: int) -> int:
        return zlib.crc32(self.settings.node.encode()) % 1000 * seal_ns // 10_000

    # What root asks at the socket

    def _tick_at_once(self, now: Moment) -> dict[str, Any]:
        if now.boot_ns - self._last_tick_ns < EDGE_WINDOW_NS:
            raise RequestError("a reading was taken just now")
        self.runs.poll(now)
        self._tick("clock", now)
        return self._status(now)

    def _status(self, now: Moment) -> dict[str, Any]:
        """What a person or `doctor` wants to know; no counters."""
        return {
            "sampler": self._run_id,
            "pid": os.getpid(),
            "software": __version__,
            "interval_s": self._interval_ns / NS_PER_S,
            "last_tick_utc": self._last_tick_at.utc() if self._last_tick_at else None,
            "last_tick_seconds_ago": round((now.boot_ns - self._last_tick_ns) / NS_PER_S, 3),
            "runs": len(self.runs.alive),
            "clients": self._service.clients if self._service else 0,
            "zones_used": sum(zone.used for zone in self._instruments.zones),
            "spool_error": self.evidence.last_error or None,
            **self._report.figures(self.runs.poll_ns),
        }


def _ready(events: list[tuple[int, int]]) -> set[int]:
    return {descriptor for descriptor, _ in events}


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 65536)
