"""One run of a job on this node: what was last read of it, and its lines in the spool."""

import re
from typing import Any, Protocol

from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import cgroups
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.sampler.marks import Mark
from eco2ai_hpc.sampler.sessions import Session
from eco2ai_hpc.units import NS_PER_S, NS_PER_US

# Not for CPU time, of which nothing is lost between two looks (tails.py), but for memory and cores.
_YOUNGEST_POLL_NS = NS_PER_S
_OLDEST_POLL_NS = 10 * NS_PER_S
# Slurm keeps a job's folder for a moment longer than the job, and a site's epilog may run before ours.
GONE_AFTER_NS = 60 * NS_PER_S
_COUNT = re.compile(r"[0-9]{1,18}")
# `4`, `16(x2)`, `16(x2),8`
_CPUS_PER_NODE = re.compile(r"([0-9]{1,6})(?:\(x[0-9]{1,6}\))?")


class Usage(Protocol):
    """What can say how much of the node a job uses: its cgroup, or its session in local mode."""

    def identity(self) -> int | None: ...
    def parent(self) -> str | None: ...
    def counts_cpu(self) -> bool: ...
    def is_lasting(self) -> bool: ...
    def is_empty(self) -> bool: ...
    def cpu_us(self) -> int | None: ...
    def memory_bytes(self) -> int | None: ...
    def memory_limit_bytes(self) -> int | None: ...
    def cpuset(self) -> str | None: ...
    def close(self) -> None: ...


class Run:
    """One run of a job on this node, from its start mark to its end."""

    def __init__(self, key: str, mark: Mark, *, resumed: bool, gpus: tuple[str, ...] = ()) -> None:
        self.key = key
        self.mark = mark
        self.resumed = resumed
        self.gpus = gpus
        self.cpu_us: int | None = None
        self.base_us = 0
        """What its cgroup had counted before the run began: an empty one that an earlier run left behind."""
        self.polled_ns = mark.at.boot_ns
        self.rate: float | None = None
        """CPU time per time between the last two polls."""
        self.seen: Moment | None = None
        """When its cgroup was last there with a process in it; None: never yet."""
        self.is_lasting = False
        self.next_poll_ns = 0
        self._memory: int | None = None
        self._memory_limit: int | None = None
        self._cpuset: str | None = None
        self._usage: Usage | None = None
        self._identity: int | None = None
        self._earlier_us = 0
        self._raw_us = 0
        self._is_restored = False

    @property
    def is_session(self) -> bool:
        return "ECO2AI_HPC_SESSION" in self.mark.env

    @property
    def explained_us(self) -> int:
        """What it accounts for of the counter above all jobs."""
        return 0 if self.is_session else (self.cpu_us or 0) + self.base_us

    @property
    def is_away(self) -> bool:
        """Whether it has no cgroup now, and might have had one since the last look."""
        return self._usage is None and not self.is_session

    @property
    def path(self) -> str | None:
        """The folder of its cgroup, while that is there."""
        return self._usage.path if isinstance(self._usage, cgroups.JobCgroup) else None

    @property
    def parent(self) -> str | None:
        return self._usage.parent() if self._usage else None

    @property
    def open_us(self) -> int:
        """The part of `cpu_us` that a cgroup which is still there counts."""
        return self._raw_us if self._usage else 0

    def poll(self, roots: Roots, node: str, now: Moment) -> int | None:
        """Read the job's use. Returns since when CPU time may have gone with a cgroup that is no more; None: not so.

        CPU time is read each time, the rest when it is due: often while the run is young (age/50, between 1 and
        10 s), because a short run's memory and cores are known from nothing else.
        """
        had = self._usage is not None or self._is_restored
        self._is_restored = False
        identity, before_us, since_ns = self._identity, self.cpu_us, self.polled_ns
        is_due = now.boot_ns >= self.next_poll_ns
        self._read(roots, node, now)
        if self._usage is not None:
            self._note_rate(before_us, now)
            if is_due:
                self._read_rest(self._usage)
        if is_due:
            age_ns = now.boot_ns - self.mark.at.boot_ns
            self.next_poll_ns = now.boot_ns + min(max(age_ns // 50, _YOUNGEST_POLL_NS), _OLDEST_POLL_NS)
        return since_ns if had and (self._usage is None or self._identity != identity) else None

    def _read(self, roots: Roots, node: str, now: Moment) -> None:
        usage = self._usage
        if usage is not None and not self._take(usage, now):
            usage.close()
            usage = self._usage = None
        if usage is None:
            self._find(roots, node, now)

    def _find(self, roots: Roots, node: str, now: Moment) -> None:
        session = self.mark.env.get("ECO2AI_HPC_SESSION", "")
        usage: Usage | None
        if _COUNT.fullmatch(session):
            usage = Session(roots.procfs, int(session))
        else:
            usage = cgroups.find(roots, node, self.mark.job, self.mark.uid, self.mark.sluid)
        if usage is None:
            return
        if not usage.counts_cpu():
            self._read_rest(usage)
            usage.close()
            return
        identity = usage.identity()
        if identity != self._identity:  # between two steps a cgroup can go, and come back counting from 0
            self._earlier_us = self.cpu_us or 0
            if self._identity is None and not self.resumed and usage.is_empty():
                self.base_us = usage.cpu_us() or 0
                self._earlier_us -= self.base_us
            self._identity = identity
        if self._take(usage, now):
            self._usage = usage
        else:
            usage.close()

    def _take(self, usage: Usage, now: Moment) -> bool:
        """Read CPU time; False where the cgroup is gone. What could not be read keeps its last value."""
        cpu_us = usage.cpu_us()
        if cpu_us is None:
            return False
        has_moved = cpu_us != self._raw_us
        self._raw_us = cpu_us
        self.cpu_us = max(self._earlier_us + cpu_us, self.cpu_us or 0)
        if has_moved or now.boot_ns >= self.next_poll_ns:
            self._note_seen(usage, now, has_moved)
        return True

    def _note_seen(self, usage: Usage, now: Moment, has_moved: bool) -> None:
        # What has used CPU time since the last look was not empty; listing processes costs more on v1.
        if has_moved or not usage.is_empty():
            self.seen = now
        self.is_lasting = self.is_lasting or usage.is_lasting()

    def _read_rest(self, usage: Usage) -> None:
        memory, limit, cpuset = usage.memory_bytes(), usage.memory_limit_bytes(), usage.cpuset()
        self._memory = self._memory if memory is None else memory
        self._memory_limit = self._memory_limit if limit is None else limit
        self._cpuset = cpuset or self._cpuset

    def _note_rate(self, before_us: int | None, now: Moment) -> None:
        elapsed_us = (now.boot_ns - self.polled_ns) // NS_PER_US
        if before_us is not None and elapsed_us > 0:
            self.rate = ((self.cpu_us or 0) - before_us) / elapsed_us
        self.polled_ns = now.boot_ns

    def add_tail(self, tail_us: int) -> None:
        """CPU time that went with its cgroup after the last look at it."""
        self.cpu_us = (self.cpu_us or 0) + tail_us

    def finish(self, mark: Mark) -> None:
        """At the end mark: local mode hands over what wait4(2) said of the whole job."""
        final_us = mark.env.get("ECO2AI_HPC_CPU_US", "")
        if _COUNT.fullmatch(final_us):
            self.cpu_us = max(int(final_us), self.cpu_us or 0)

    def cpus(self, all_cpus: int) -> int:
        """CPUs it was given here: Slurm's count; where its nodes have different ones its cpuset's, else the mean."""
        counts = [int(count) for count in _CPUS_PER_NODE.findall(self.mark.env.get("SLURM_JOB_CPUS_PER_NODE", ""))]
        if len(set(counts)) == 1:
            return min(counts[0], all_cpus) or 1
        in_cpuset = _count_list(self._cpuset or "")
        if in_cpuset and in_cpuset < all_cpus:
            return in_cpuset
        return min(sum(counts) // len(counts), all_cpus) or 1 if counts else all_cpus

    def is_lost(self, now: Moment) -> bool:
        """Whether it has ended without an epilog: its cgroup was there, is gone or empty, and would not be if it ran.

        Without a step that lasts (PrologFlags without Contain, no batch step here) a job has no cgroup between two
        steps: then only the end of its time limit tells. Unknown limits (before Slurm 23.02) tell nothing.
        """
        if self.seen is None or now.boot_ns - self.seen.boot_ns < GONE_AFTER_NS:
            return False
        limit = self.mark.env.get("SLURM_JOB_END_TIME", "")
        is_over = bool(_COUNT.fullmatch(limit)) and now.wall_ns > int(limit) * NS_PER_S + GONE_AFTER_NS
        return self.is_lasting or is_over

    def entry(self) -> dict[str, Any]:
        """The run's part of a tick line; what is unknown is left out."""
        values = {"cpu": self.cpu_us, "mem": self._memory, "cpuset": self._cpuset, "mem_limit": self._memory_limit}
        return {key: value for key, value in values.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """What a restarted sampler needs to go on counting."""
        return {
            "cpu": self.cpu_us,
            "earlier": self._earlier_us,
            "base": self.base_us,
            "identity": self._identity,
            "lasting": self.is_lasting,
            "seen": self.seen,
            "polled": self.polled_ns,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what an earlier sampler of this boot knew; raises TypeError, KeyError, ValueError if it is torn."""
        numbers = [state[name] for name in ("cpu", "earlier", "base", "identity", "polled")]
        if not all(number is None or type(number) is int for number in numbers):
            raise TypeError("not a run's state")
        seen, is_lasting = state["seen"] and Moment(*map(int, state["seen"])), state["lasting"] is True
        cpu_us, earlier_us, base_us, self._identity, polled_ns = numbers
        self.cpu_us, self._earlier_us, self.base_us = cpu_us, earlier_us or 0, base_us or 0
        self.polled_ns = polled_ns or self.polled_ns
        self.seen, self.is_lasting = seen, is_lasting
        self._is_restored = seen is not None

    def close(self) -> None:
        if self._usage is not None:
            self._usage.close()


def _count_list(cpus: str) -> int:
    """How many CPUs the kernel's list `0-3,8` has; 0 where it is none."""
    total = 0
    for part in filter(None, cpus.split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return 0
        total += int(last or first) - int(first) + 1
    return total


def start_line(run: Run) -> dict[str, Any]:
    """The job_start line of the spool."""
    mark = run.mark
    line: dict[str, Any] = {
        "k": "job_start",
        "t": mark.at.utc(),
        "bt": mark.at.boot_ns,
        "run": run.key,
        "job": mark.job,
        "sluid": mark.sluid,
        "uid": mark.uid,
        "env": _plain(mark.env),
        "gpus": list(run.gpus),
    }
    if run.resumed:
        line["resumed"] = True
    return line


def end_line(run_key: str, mark: Mark) -> dict[str, Any]:
    """The job_end line of the spool; it repeats the job, for an epilog that came without a prolog."""
    return _end(run_key, mark, mark.at, "epilog", _plain(mark.env))


def lost_line(run_key: str, mark: Mark, at: Moment, why: str) -> dict[str, Any]:
    """The job_end line of a run that no epilog ended; `mark` is that of its start."""
    return _end(run_key, mark, at, why, {})


def _end(run_key: str, mark: Mark, at: Moment, why: str, env: dict[str, str]) -> dict[str, Any]:
    return {
        "k": "job_end",
        "t": at.utc(),
        "bt": at.boot_ns,
        "run": run_key,
        "job": mark.job,
        "sluid": mark.sluid,
        "uid": mark.uid,
        "why": why,
        "env": env,
    }


def mark_line(run: Run, name: str, edge: str, at: Moment) -> dict[str, Any]:
    """The line of what a job's own program said of itself."""
    return {"k": "mark", "t": at.utc(), "bt": at.boot_ns, "run": run.key, "name": name, "edge": edge}


def _plain(env: dict[str, str]) -> dict[str, str]:
    """Names may hold bytes that are not UTF-8; JSON must not."""
    return {_utf8(key): _utf8(value) for key, value in env.items()}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
