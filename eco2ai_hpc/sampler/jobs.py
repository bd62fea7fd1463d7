"""The runs alive on this node and what was last read of each."""

import re
from typing import Any, Protocol

from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import cgroups
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.sampler.marks import Mark
from eco2ai_hpc.sampler.sessions import Session
from eco2ai_hpc.units import NS_PER_S

_YOUNGEST_POLL_NS = NS_PER_S // 2
_OLDEST_POLL_NS = 10 * NS_PER_S
_COUNT = re.compile(r"[0-9]{1,18}")


class Usage(Protocol):
    """What can say how much of the node a job uses: its cgroup, or its session in local mode."""

    def identity(self) -> int | None: ...
    def cpu_us(self) -> int | None: ...
    def memory_bytes(self) -> int | None: ...
    def memory_limit_bytes(self) -> int | None: ...
    def cpuset(self) -> str | None: ...
    def close(self) -> None: ...


class Run:
    """One run of a job on this node, from its start mark to its end."""

    def __init__(self, key: str, mark: Mark, *, resumed: bool) -> None:
        self.key = key
        self.mark = mark
        self.resumed = resumed
        self.cpu_us: int | None = None
        self._memory: int | None = None
        self._memory_limit: int | None = None
        self._cpuset: str | None = None
        self._usage: Usage | None = None
        self._identity: int | None = None
        self._earlier_us = 0
        self.next_poll_ns = 0

    def poll(self, roots: Roots, node: str, now: Moment) -> None:
        """Read the job's use: often while it is young (age/50, between 0.5 and 10 s).

        What ran after the last poll is lost with the cgroup, and of a short job that can be most of it.
        """
        age_ns = now.boot_ns - self.mark.at.boot_ns
        self.next_poll_ns = now.boot_ns + min(max(age_ns // 50, _YOUNGEST_POLL_NS), _OLDEST_POLL_NS)
        if self._usage is None:
            self._usage = self._find(roots, node)
        if self._usage is None:
            return
        cpu_us = self._usage.cpu_us()
        self._keep(self._usage, cpu_us)
        if cpu_us is None:  # gone, or not the folder this run will have: look again next time
            self._usage.close()
            self._usage = None

    def _keep(self, usage: Usage, cpu_us: int | None) -> None:
        """Remember what could be read; what could not be read keeps its last value."""
        if cpu_us is not None:
            identity = usage.identity()
            # Between two steps of a job the cgroup can go, and come back counting from 0.
            if self._identity is not None and identity is not None and identity != self._identity:
                self._earlier_us = self.cpu_us or 0
            self._identity = identity or self._identity
            self.cpu_us = max(self._earlier_us + cpu_us, self.cpu_us or 0)
        memory, limit, cpuset = usage.memory_bytes(), usage.memory_limit_bytes(), usage.cpuset()
        self._memory = self._memory if memory is None else memory
        self._memory_limit = self._memory_limit if limit is None else limit
        self._cpuset = cpuset or self._cpuset

    def finish(self, mark: Mark, roots: Roots, node: str, now: Moment) -> None:
        """The last look, at the end mark; local mode hands over what wait4(2) said of the whole job."""
        self.poll(roots, node, now)
        final_us = mark.env.get("ECO2AI_HPC_CPU_US", "")
        if _COUNT.fullmatch(final_us):
            self.cpu_us = max(int(final_us), self.cpu_us or 0)

    def _find(self, roots: Roots, node: str) -> Usage | None:
        session = self.mark.env.get("ECO2AI_HPC_SESSION", "")
        if _COUNT.fullmatch(session):
            return Session(roots.procfs, int(session))
        return cgroups.find(roots, node, self.mark.job, self.mark.uid, self.mark.sluid)

    def entry(self) -> dict[str, Any]:
        """The run's part of a tick line; what is unknown is left out."""
        values = {"cpu": self.cpu_us, "mem": self._memory, "cpuset": self._cpuset, "mem_limit": self._memory_limit}
        return {key: value for key, value in values.items() if value is not None}

    def close(self) -> None:
        if self._usage is not None:
            self._usage.close()


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
        "gpus": [],
    }
    if run.resumed:
        line["resumed"] = True
    return line


def end_line(run_key: str, mark: Mark) -> dict[str, Any]:
    """The job_end line of the spool; it repeats the job, for an epilog that came without a prolog."""
    return {
        "k": "job_end",
        "t": mark.at.utc(),
        "bt": mark.at.boot_ns,
        "run": run_key,
        "job": mark.job,
        "sluid": mark.sluid,
        "uid": mark.uid,
        "why": "epilog",
        "env": _plain(mark.env),
    }


def _plain(env: dict[str, str]) -> dict[str, str]:
    """Names may hold bytes that are not UTF-8; JSON must not."""
    return {_utf8(key): _utf8(value) for key, value in env.items()}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
