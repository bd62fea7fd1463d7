"""The sampler's loop: wait, take in job marks, read meters and jobs, append one line.

    poke or deadline -> marks -> poll jobs -> tick (clock | start | end | stop) -> evidence -> seal now and then

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
from eco2ai_hpc.sampler import jobs
from eco2ai_hpc.sampler.evidence import Evidence
from eco2ai_hpc.sampler.host import Host, Moment
from eco2ai_hpc.sampler.marks import Mark, RunDirectory
from eco2ai_hpc.units import NS_PER_S

EDGE_WINDOW_NS = NS_PER_S // 4
SEAL_AFTER_JOB_NS = 60 * NS_PER_S
_REPEATED_WITHIN_NS = 5 * NS_PER_S
FLUSH_NS = 60 * NS_PER_S
_SHORTEST_INTERVAL_S = 1.0
_GRAIN_NS = NS_PER_S // 50  # /proc/uptime, where it dates a mark, counts in 10 ms
_DEFAULT_MAX_UW = {"package": 700_000_000, "dram": 250_000_000, "gpu": 1_500_000_000}
_NODE_MAX_UW = 5_000_000_000


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


def safe_interval_s(asked_s: float, zones: tuple[Zone, ...]) -> float:
    """The interval asked for, or less where a counter could wrap within it: 0.4 x range / highest power.

    No counter brings it below a second: one with an absurd range is not worth a busy loop, its wraps stay unknown.
    """
    allowed = asked_s
    for zone in zones:
        if zone.used and zone.wrap_uj:
            highest_uw = zone.max_uw or _DEFAULT_MAX_UW.get(zone.domain, _NODE_MAX_UW)
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
        self._meters = [outcome.meter for outcome in opened if outcome.meter]
        self._zones = tuple(zone for meter in self._meters for zone in meter.zones)
        self._interval_ns = round(safe_interval_s(settings.interval_s, self._zones) * NS_PER_S)
        self._run_id = spool.new_run_id()
        self._directory = RunDirectory(settings.run_dir)
        self.evidence = Evidence(
            spool.node_directory(settings.spool_dir, settings.cluster, settings.node), self._header()
        )
        self._runs: dict[str, jobs.Run] = {}
        self._ended: dict[int, int] = {}
        self._started = 0
        self._last_edge_ns = 0
        self._flushed_ns = 0
        self._job_ended = False
        self._next_tick_wall_ns = 0
        self._last_tick_ns = 0
        self._stopping = False

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
            "zones": {
                zone.key: {
                    "domain": zone.domain,
                    "wrap": zone.wrap_uj,
                    "max_uw": zone.max_uw,
                    "used": zone.used,
                    "why": zone.why,
                }
                for zone in self._zones
            },
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
            while not self._stopping:
                if waiter.poll(self._wait_ms(self._clock())):
                    _drain(poke)
                self.step(self._clock())
            self.end(self._clock())
        finally:
            os.close(poke)

    def begin(self, now: Moment) -> None:
        """Take over what an earlier sampler left, and read once."""
        self.evidence.recover()
        self._directory.forget_other_boots(self._host.description.boot_id, now)
        for key, mark in self._directory.alive(now):
            run = jobs.Run(key, mark, resumed=True)
            run.poll(self.settings.roots, self.settings.node, now)
            self._runs[key] = run
            self.evidence.edge(jobs.start_line(run), now)
        self._tick("clock", now)
        self._plan_tick(now)
        self.step(now)

    def step(self, now: Moment) -> None:
        """Everything that is due now."""
        self._take_marks(now)
        for run in self._runs.values():
            if now.boot_ns >= run.next_poll_ns:
                run.poll(self.settings.roots, self.settings.node, now)
        if now.wall_ns >= self._next_tick_wall_ns or now.boot_ns >= self._latest_tick_ns():
            self._tick("clock", now)
            self._plan_tick(now)
        self._seal_if_due(now)

    def end(self, now: Moment) -> None:
        """The last reading, and a sealed segment."""
        self._take_marks(now, at_once=True)
        self._tick("stop", now)
        self.evidence.seal()
        self.close()

    def close(self) -> None:
        """Give descriptors back."""
        for run in self._runs.values():
            run.close()
        for meter in self._meters:
            meter.close()

    def _wait_ms(self, now: Moment) -> int:
        ns = min(self._next_tick_wall_ns - now.wall_ns, self._latest_tick_ns() - now.boot_ns)
        for run in self._runs.values():
            ns = min(ns, run.next_poll_ns - now.boot_ns)
        if now.boot_ns - self._last_edge_ns < EDGE_WINDOW_NS:
            ns = min(ns, self._last_edge_ns + EDGE_WINDOW_NS - now.boot_ns)
        return max(1, min(ns, self._interval_ns) // 1_000_000 + 1)

    def _latest_tick_ns(self) -> int:
        """When to read at the latest, whatever the wall clock says: it may have been set back."""
        return self._last_tick_ns + self._interval_ns * 5 // 4

    def _plan_tick(self, now: Moment) -> None:
        self._next_tick_wall_ns = (now.wall_ns // self._interval_ns + 1) * self._interval_ns

    def _take_marks(self, now: Moment, *, at_once: bool = False) -> None:
        if not at_once and now.boot_ns - self._last_edge_ns < EDGE_WINDOW_NS:
            return
        found, _torn = self._directory.pending(now)
        if not found:
            return
        self._last_edge_ns = now.boot_ns
        starts = [mark for mark in found if mark.edge == "start"]
        ends = self._ending([mark for mark in found if mark.edge == "end" and not _follows_any(mark, starts)])
        if not starts and not ends:
            return
        for run_key, mark in ends:
            if run_key is not None:
                self._runs[run_key].finish(mark, self.settings.roots, self.settings.node, now)
        for mark in starts:
            self._start(mark, now)
        self._tick("end" if ends and not starts else "start", now)
        for run_key, mark in ends:
            self._end(run_key, mark, now)
        # A start and an end that came together stay for the next reading, which then separates them.

    def _start(self, mark: Mark, now: Moment) -> None:
        self._started += 1
        key = f"{mark.job}@{self._run_id}-{self._started}"
        self._directory.claim(mark, key)
        run = jobs.Run(key, mark, resumed=False)
        self._runs[key] = run
        self.evidence.edge(jobs.start_line(run), now)

    def _ending(self, marks: list[Mark]) -> list[tuple[str | None, Mark]]:
        """The run that each mark ends, if any. An epilog that came twice changes nothing: its mark is dropped."""
        ends: list[tuple[str | None, Mark]] = []
        for mark in marks:
            run_key = self._run_of(mark, {key for key, _ in ends})
            if run_key is None and (self._is_repeat(mark) or mark.job in {other.job for _, other in ends}):
                self._directory.forget(mark.path)
            else:
                ends.append((run_key, mark))
        return ends

    def _is_repeat(self, mark: Mark) -> bool:
        """Whether an end without a run repeats one just written.

        Later than that it may end a requeued run whose prolog never ran (Slurm reissued its credential): then it is
        evidence, and the ledger sees from Slurm's records which of the two it is.
        """
        ended_ns = self._ended.get(mark.job)
        return ended_ns is not None and mark.at.boot_ns - ended_ns < _REPEATED_WITHIN_NS

    def _run_of(self, mark: Mark, taken: set[str | None]) -> str | None:
        """The job's latest run that began before the end mark; None for an epilog that came without a prolog."""
        runs = [run for run in self._runs.values() if run.mark.job == mark.job and run.key not in taken]
        before = [run for run in runs if run.mark.at.boot_ns <= mark.at.boot_ns + _GRAIN_NS]
        if not before and mark.job not in self._ended:
            before = runs
        return max(before, key=lambda run: run.mark.at.boot_ns).key if before else None

    def _end(self, run_key: str | None, mark: Mark, now: Moment) -> None:
        if run_key is None:
            self._started += 1
            run_key = f"{mark.job}@{self._run_id}-{self._started}"
        self.evidence.edge(jobs.end_line(run_key, mark), now)
        self._directory.release(run_key)
        self._directory.forget(mark.path)
        run = self._runs.pop(run_key, None)
        if run is not None:
            run.close()
        self._remember_ended(mark)
        self._job_ended = True

    def _remember_ended(self, mark: Mark) -> None:
        self._ended[mark.job] = mark.at.boot_ns
        if len(self._ended) > 1000:
            del self._ended[next(iter(self._ended))]

    def _tick(self, why: str, now: Moment) -> None:
        counters: dict[str, int] = {}
        errors: dict[str, str] = {}
        moment = self._clock()
        self._last_tick_ns = moment.boot_ns
        for meter in self._meters:
            meter.read(counters, errors)
        line: dict[str, Any] = {"k": "tick", "t": moment.utc(), "bt": moment.boot_ns, "why": why, "c": counters}
        if errors:
            line["err"] = errors
        try:
            line["busy"] = self._host.busy_us()
        except (OSError, ValueError):
            line["busy"] = {}
        line["mem"] = self._host.memory_used_bytes()
        line["jobs"] = {key: run.entry() for key, run in self._runs.items()}
        self.evidence.tick(line, now)

    def _seal_if_due(self, now: Moment) -> None:
        age_ns = now.boot_ns - self.evidence.opened_ns
        seal_ns = round(self.settings.seal_s * NS_PER_S)
        # Nodes must not seal in step: each seals later by what its name says.
        due = age_ns > seal_ns + self._spread_ns(seal_ns)
        if due or (self._job_ended and age_ns > min(SEAL_AFTER_JOB_NS, seal_ns)):
            self.evidence.seal()
            self._job_ended = False
        elif now.boot_ns - self._flushed_ns + self._interval_ns > FLUSH_NS:  # the next step may be an interval away
            self.evidence.flush()
            self._flushed_ns = now.boot_ns

    def _spread_ns(self, seal_ns: int) -> int:
        return zlib.crc32(self.settings.node.encode()) % 1000 * seal_ns // 10_000


def _follows_any(end: Mark, starts: list[Mark]) -> bool:
    """Whether the run that this mark ends starts in the same batch: it then waits for the next reading."""
    return any(start.job == end.job and start.at.boot_ns <= end.at.boot_ns for start in starts)


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 65536)
