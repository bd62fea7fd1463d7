"""The CPU time that a job used after the last look at its cgroup, exactly where one job ended between two looks.

The cgroup above all jobs counts for its removed children too (v1 cpuacct.usage, v2 cpu.stat). So of its counter P

    rest = P - what the runs are known to have used - what its other children (Slurm's own) used

does not move while nothing is lost, and what it grows by when a cgroup is gone is what that cgroup used unseen.
P is read before and after the children, which bounds `rest` from below and above; while it does not move each look
narrows the bounds, so that neighbours which run meanwhile cost little precision (their CPUs x the time to read them,
at most). Of several that went between two looks each gets a part by its last rate, else by its allocated CPUs.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import cgroups
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.sampler.jobs import Run
from eco2ai_hpc.units import NS_PER_US


class Bounds(NamedTuple):
    """Where `rest` is, in microseconds."""

    low: int
    high: int

    @property
    def middle(self) -> int:
        return (self.low + self.high) // 2


class Party(NamedTuple):
    """Who may have used CPU time unseen; without a run: a cgroup that nobody marked."""

    run: Run | None
    elapsed_us: int
    cpus: int

    @property
    def weight(self) -> int:
        """Its likely part: at its last rate, else with all its CPUs."""
        rate = self.run.rate if self.run and self.run.rate is not None else self.cpus
        return round(rate * self.elapsed_us)


class Tails:
    """Looks at all runs of a node together, and gives what was lost between two looks to those who lost it."""

    def __init__(self, roots: Roots, node: str, cpus: int) -> None:
        self._roots = roots
        self._node = node
        self._cpus = cpus
        self._parent: cgroups.Parent | None = None
        self._identity: int | None = None
        self._bounds: Bounds | None = None
        self._settled_us = 0
        self._others: dict[str, int] = {}
        self._looked_ns = 0

    def poll(self, runs: Collection[Run], ending: Collection[str], now: Moment) -> None:
        """Read every run; `ending` are the keys of those whose end mark has come."""
        first_us = self._read_parent()
        lost = []
        for run in runs:
            since_ns = run.poll(self._roots, self._node, now)
            if since_ns is None and run.key in ending and run.cpu_us is None and run.is_away:
                since_ns = run.mark.at.boot_ns  # it came and went between two looks
            if since_ns is not None and not run.is_session:
                lost.append(self._party(run, since_ns, now))
        if first_us is None or self._parent is None:
            self._begin_at_nothing(runs)
        else:
            self._compare(self._parent, first_us, runs, lost, now)
        self._looked_ns = now.boot_ns

    def _party(self, run: Run | None, since_ns: int, now: Moment) -> Party:
        cpus = run.cpus(self._cpus) if run else self._cpus
        return Party(run, max(0, now.boot_ns - since_ns) // NS_PER_US, cpus)

    def _read_parent(self) -> int | None:
        if self._parent is None:
            self._parent = cgroups.find_parent(self._roots, self._node)
        if self._parent is None:
            return None
        identity = self._parent.identity()
        if identity != self._identity:  # made anew: it counts from 0
            if self._identity is not None:
                self._bounds = None
            self._identity = identity
        cpu_us = self._parent.cpu_us()
        if cpu_us is None:
            self._leave()
        return cpu_us

    def _leave(self) -> None:
        if self._parent is not None:
            self._parent.close()
        self._parent = self._identity = self._bounds = None
        self._others = {}

    def _begin_at_nothing(self, runs: Collection[Run]) -> None:
        """There is no such cgroup: whatever it counts once it is made, was used by runs from now on."""
        self._settled_us = -sum(run.explained_us for run in runs)
        self._bounds = Bounds(0, 0)

    def _compare(
        self, parent: cgroups.Parent, first_us: int, runs: Collection[Run], lost: list[Party], now: Moment
    ) -> None:
        paths = {run.path for run in runs if run.path}
        others = parent.others_us(paths)
        last_us = parent.cpu_us()
        elsewhere = next((run.parent for run in runs if run.parent not in (None, parent.path)), None)
        if last_us is None or elsewhere:
            self._leave()
            self._parent = cgroups.Parent(elsewhere) if elsewhere else None
            return
        for path in self._others.keys() - others.keys() - paths:
            self._settled_us += self._others[path]
            lost.append(self._party(None, self._looked_ns, now))
        self._others = others
        explained_us = self._settled_us + sum(others.values()) + sum(run.explained_us for run in runs)
        found = Bounds(first_us - explained_us, last_us - explained_us)
        self._bounds = self._settle(found, lost, runs, now)

    def _settle(self, found: Bounds, lost: list[Party], runs: Collection[Run], now: Moment) -> Bounds:
        """The bounds from here on; gives away what `rest` grew by."""
        known = self._bounds
        if known is None:
            return found
        if not lost and found.low <= known.high:
            narrowed = Bounds(max(known.low, found.low), min(known.high, found.high))
            return narrowed if narrowed.low <= narrowed.high else found
        # Nobody was seen to lose anything: a step that came and went, of a run that had no cgroup at either look.
        parties = lost or [self._party(run, self._looked_ns, now) for run in runs if run.is_away]
        given_us = self._give(found.middle - known.middle, parties)
        return Bounds(found.low - given_us, found.high - given_us)

    def _give(self, missing_us: int, parties: list[Party]) -> int:
        """Share it out; more than the node's CPUs can do in the time is nobody's."""
        longest_us = max((party.elapsed_us for party in parties), default=0)
        missing_us = min(missing_us, longest_us * self._cpus)
        if missing_us <= 0:
            return 0
        weights = [party.weight for party in parties]
        if not any(weights):
            weights = [party.elapsed_us * party.cpus for party in parties]
        given_us = 0
        for party, weight in zip(parties, weights, strict=True):
            part_us = missing_us * weight // sum(weights)
            given_us += part_us
            if party.run is None:
                self._settled_us += part_us
            else:
                party.run.add_tail(part_us)
        return given_us

    def forget(self, run: Run) -> None:
        """The run has ended; what it used stays accounted for."""
        self._settled_us += run.explained_us - run.open_us

    def state(self) -> dict[str, Any]:
        """What a restarted sampler needs to go on."""
        return {
            "parent": self._parent.path if self._parent else None,
            "identity": self._identity,
            "bounds": self._bounds,
            "settled": self._settled_us,
            "others": self._others,
            "looked": self._looked_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over from an earlier sampler of this boot; raises TypeError, KeyError or ValueError if it is torn."""
        if state["parent"] is None or state["bounds"] is None:
            return
        bounds = Bounds(*map(int, state["bounds"]))
        others = {str(path): int(us) for path, us in state["others"].items()}
        settled_us, looked_ns, identity = (int(state[name]) for name in ("settled", "looked", "identity"))
        self._bounds, self._others, self._settled_us = bounds, others, settled_us
        self._looked_ns, self._identity = looked_ns, identity
        self._parent = cgroups.Parent(str(state["parent"]))

    def close(self) -> None:
        if self._parent is not None:
            self._parent.close()
