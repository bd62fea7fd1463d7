"""Which run a process belongs to, by what the kernel says of it."""

import os
import re
from collections.abc import Iterable

from eco2ai_hpc.sampler.jobs import Run

# v1 4:memory:/slurm_n1/uid_5001/job_7/step_0/task_0, v2 0::/system.slice/n1_slurmstepd.scope/job_7/step_0/user/task_0
_V1 = re.compile(r"/slurm(?:_(?P<node>[^/]+))?/uid_[0-9]+/job_(?P<job>[0-9]{1,10})(?:/|$)")
_V2 = re.compile(
    r"/(?:(?P<node>[^/]+)_)?slurmstepd\.scope/(?:job_(?P<job>[0-9]{1,10})|(?P<sluid>s[0-9A-Z]{13}))(?:/|$)"
)
_SESSION = 3
PROC = "/proc"
"""Where the kernel's own pids are looked up, wherever the node's other figures are read from."""


def run_of(procfs: str, node: str, pid: int, uid: int, runs: Iterable[Run]) -> Run | None:
    """The run whose process `pid` is and whose user `uid` is; None where there is none."""
    job, sluid = _job_of(_read(procfs, pid, "cgroup"), node)
    session = ""
    own = [run for run in runs if run.mark.uid == uid]
    if job is None and sluid is None and any(run.is_session for run in own):
        session = _session_of(_read(procfs, pid, "stat"))
    matching = [run for run in own if _is_of(run, job, sluid, session)]
    return max(matching, key=lambda run: run.mark.at.boot_ns, default=None)


def _is_of(run: Run, job: int | None, sluid: str | None, session: str) -> bool:
    if sluid is not None:
        return run.mark.sluid == sluid
    if job is not None:
        return run.mark.job == job
    return bool(session) and run.mark.env.get("ECO2AI_HPC_SESSION") == session


def _job_of(cgroups: str, node: str) -> tuple[int | None, str | None]:
    """Job id or SLUID in /proc/PID/cgroup; several nodes may share one kernel (multiple slurmd)."""
    for line in cgroups.splitlines():
        path = line.split(":", 2)[-1]
        match = _V2.search(path) or _V1.search(path)
        if match and match["node"] in (None, node):
            found = match.groupdict()
            return int(found["job"]) if found["job"] else None, found.get("sluid")
    return None, None


def _session_of(stat: str) -> str:
    fields = stat.rpartition(")")[2].split()
    return fields[_SESSION] if len(fields) > _SESSION else ""


def _read(procfs: str, pid: int, name: str) -> str:
    try:
        with open(os.path.join(procfs, str(pid), name), encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""
