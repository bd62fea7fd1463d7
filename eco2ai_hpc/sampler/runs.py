"""The runs alive on this node: from marks to job_start and job_end lines, and to what each has used."""

import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from eco2ai_hpc.sampler import jobs
from eco2ai_hpc.sampler.evidence import Evidence
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.sampler.jobs import Run
from eco2ai_hpc.sampler.marks import Mark, RunDirectory
from eco2ai_hpc.sampler.tails import Tails
from eco2ai_hpc.units import NS_PER_S

_REPEATED_WITHIN_NS = 5 * NS_PER_S
_GRAIN_NS = NS_PER_S // 50  # /proc/uptime, where it dates a mark, counts in 10 ms
_REMEMBERED = 1000
# Looking at all runs together may cost 1 % of one CPU, whatever their number: then it is done less often.
_PAUSE_FACTOR = 100

End = tuple[str | None, Mark]


class Batch(NamedTuple):
    """Marks that share one reading."""

    starts: list[Mark]
    ends: list[End]
    """With the run that each ends; None: an epilog that came without a prolog."""


class Runs:
    """All runs of one node."""

    def __init__(
        self,
        directory: RunDirectory,
        evidence: Evidence,
        tails: Tails,
        run_id: str,
        devices_of: Callable[[dict[str, str]], tuple[str, ...]],
    ) -> None:
        self.alive: dict[str, Run] = {}
        self.poll_ns = 0
        """Time spent in `poll` so far."""
        self._directory = directory
        self._evidence = evidence
        self._tails = tails
        self._run_id = run_id
        self._devices_of = devices_of
        self._started = 0
        self._ended: dict[int, int] = {}
        self._lost: dict[int, None] = {}
        self._not_before_ns = 0

    # Marks

    def resume(self, now: Moment) -> None:
        """Go on with the runs that an earlier sampler of this boot left."""
        state = self._directory.load_state()
        runs = state.get("runs")
        known = runs if isinstance(runs, dict) else {}
        for key, mark in self._directory.alive(now):
            run = Run(key, mark, resumed=True, gpus=self._devices_of(mark.env))
            _restore(run, known.get(key))
            self.alive[key] = run
        _restore(self._tails, state.get("tails"))
        self.poll(now)
        for run in self.alive.values():
            self._evidence.edge(jobs.start_line(run), now)

    def save(self, boot_id: str, now: Moment) -> None:
        """Keep what a later sampler needs to go on."""
        runs = {key: run.state() for key, run in self.alive.items()}
        self._directory.save_state({"boot": boot_id, "at": now, "runs": runs, "tails": self._tails.state()})

    def pending(self, now: Moment) -> Batch:
        """The marks that came, matched to runs; those that repeat another are dropped."""
        found, _torn = self._directory.pending(now)
        starts = [mark for mark in found if mark.edge == "start"]
        ends = [mark for mark in found if mark.edge == "end" and not _follows_any(mark, starts)]
        # A start and an end that came together stay for the next reading, which then separates them.
        return Batch(starts, self._ending(ends))

    def _ending(self, marks: list[Mark]) -> list[End]:
        """The run that each mark ends, if any. An epilog that came twice changes nothing: its mark is dropped."""
        ends: list[End] = []
        for mark in marks:
            run_key = self._run_of(mark, {key for key, _ in ends})
            if run_key is None and (self._is_repeat(mark) or mark.job in {other.job for _, other in ends}):
                self._directory.forget(mark.path)
            else:
                ends.append((run_key, mark))
        return ends

    def _is_repeat(self, mark: Mark) -> bool:
        """Whether an end without a run repeats one just written, or comes after a run was closed without it.

        Later than that it may end a requeued run whose prolog never ran (Slurm reissued its credential): then it is
        evidence, and the ledger sees from Slurm's records which of the two it is.
        """
        if mark.job in self._lost:
            del self._lost[mark.job]
            return True
        ended_ns = self._ended.get(mark.job)
        return ended_ns is not None and mark.at.boot_ns - ended_ns < _REPEATED_WITHIN_NS

    def _run_of(self, mark: Mark, taken: set[str | None]) -> str | None:
        """The job's latest run that began before the end mark; None for an epilog that came without a prolog."""
        runs = [run for run in self.alive.values() if run.mark.job == mark.job and run.key not in taken]
        before = [run for run in runs if run.mark.at.boot_ns <= mark.at.boot_ns + _GRAIN_NS]
        if not before and mark.job not in self._ended:
            before = runs
        return max(before, key=lambda run: run.mark.at.boot_ns).key if before else None

    def finish(self, ends: Collection[End], now: Moment) -> None:
        """The last look at the runs that end, and one at the others: an edge begins a new interval for all."""
        keys = {run_key for run_key, _ in ends if run_key is not None}
        if keys or now.boot_ns >= self._not_before_ns:
            self.poll(now, keys)
        for run_key, mark in ends:
            if run_key is not None:
                self.alive[run_key].finish(mark)

    def start(self, mark: Mark, now: Moment) -> None:
        key = self._new_key(mark)
        self._directory.claim(mark, key)
        run = Run(key, mark, resumed=False, gpus=self._devices_of(mark.env))
        self.alive[key] = run
        self._evidence.edge(jobs.start_line(run), now)

    def _new_key(self, mark: Mark) -> str:
        self._started += 1
        return f"{mark.job}@{self._run_id}-{self._started}"

    def end(self, run_key: str | None, mark: Mark, now: Moment) -> None:
        key = run_key or self._new_key(mark)
        self._evidence.edge(jobs.end_line(key, mark), now)
        self._directory.forget(mark.path)
        self._remove(key, mark, mark.at)

    def _remove(self, key: str, mark: Mark, ended_at: Moment) -> None:
        self._directory.release(key)
        run = self.alive.pop(key, None)
        if run is not None:
            self._tails.forget(run)
            run.close()
        self._ended[mark.job] = ended_at.boot_ns
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    # Use

    def poll(self, now: Moment, ending: Collection[str] = ()) -> None:
        """Look at all runs together: what one lost is what the others do not explain."""
        began_ns = time.perf_counter_ns()
        self._tails.poll(self.alive.values(), ending, now)
        took_ns = time.perf_counter_ns() - began_ns
        self.poll_ns += took_ns
        self._not_before_ns = now.boot_ns + _PAUSE_FACTOR * took_ns

    def poll_if_due(self, now: Moment) -> None:
        if self.alive and now.boot_ns >= self.next_poll_ns():
            self.poll(now)

    def next_poll_ns(self) -> int:
        """When the youngest run wants to be looked at."""
        return max(self._not_before_ns, min(run.next_poll_ns for run in self.alive.values()))

    def close_lost(self, now: Moment) -> int:
        """End the runs whose cgroup is gone and whose epilog did not come; returns how many.

        The run ends when its cgroup was last seen. An epilog that comes later is dropped: the first end counts.
        """
        lost = [run for run in self.alive.values() if run.is_lost(now)]
        for run in lost:
            assert run.seen is not None
            self._evidence.edge(jobs.lost_line(run.key, run.mark, run.seen, "cgroup gone"), now)
            self._remove(run.key, run.mark, run.seen)
            self._lost[run.mark.job] = None
            if len(self._lost) > _REMEMBERED:
                del self._lost[next(iter(self._lost))]
        return len(lost)

    def close(self) -> None:
        for run in self.alive.values():
            run.close()
        self._tails.close()


def _follows_any(end: Mark, starts: list[Mark]) -> bool:
    """Whether the run that this mark ends starts in the same batch: it then waits for the next reading."""
    return any(start.job == end.job and start.at.boot_ns <= end.at.boot_ns for start in starts)


def _restore(what: Run | Tails, state: Any) -> None:
    """Without a usable state the count begins anew; what the spool has stays true."""
    if state is None:
        return
    try:
        what.restore(state)
    except (TypeError, KeyError, ValueError, AttributeError):
        return


def close_earlier_boot(directory: RunDirectory, earlier: str, runs: list[tuple[str, Mark]], evidence: Evidence) -> None:
    """End the runs that a boot took along, at the last reading of that boot, on its own clock, in its own segment."""
    state = directory.load_state()
    try:
        at = Moment(*map(int, state["at"]))
    except (TypeError, KeyError, ValueError):
        return
    if not runs or state.get("boot") != earlier:
        return
    for key, mark in runs:
        evidence.edge(jobs.lost_line(key, mark, at, "node booted"), at)
    evidence.seal()
