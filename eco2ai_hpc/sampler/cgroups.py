"""A Slurm job's CPU time, memory and cpuset from its cgroup, wherever this Slurm puts it.

v1: <controller>/slurm[_<node>]/uid_U/job_J.  v2: system.slice/[<node>_]slurmstepd.scope/{job_J | <SLUID>}, also below
`unified` on hybrid hosts. Slurm >= 26.05 names the v2 folder by SLUID unless CgroupJobIdPaths=yes (cgroup.conf(5)).
The folder does not exist yet at prolog and is gone at epilog: values are read while the job lives, the last one stays.
What ran between the last reading and its removal is in the counter of the folder above all jobs: `Parent`.
"""

import contextlib
import os

from eco2ai_hpc.model import Roots
from eco2ai_hpc.units import NS_PER_US

# v1 writes "no limit" as the largest multiple of the page size below 2^63.
_UNLIMITED_FROM = 1 << 62


# These steps live as long as their job does on their node; others come and go while the job holds it.
_LASTING_STEPS = ("step_extern", "step_batch", "step_interactive")


class JobCgroup:
    """Held descriptors on one job's cgroup files."""

    def __init__(self, path: str, files: dict[str, str]) -> None:
        self.path = path
        self._files = files
        self._descriptors: dict[str, int] = {}

    def parent(self) -> str | None:
        """The path of the cgroup above all jobs of this node; None where this job's CPU time is not counted."""
        if "cpu.stat" in self._files:
            return os.path.dirname(self.path)
        return os.path.dirname(os.path.dirname(self.path)) if "cpuacct" in self._files else None

    def identity(self) -> int | None:
        """Tells this cgroup from a later one of the same name: the kernel numbers cgroups and does not go back."""
        try:
            return os.stat(self.path).st_ino
        except OSError:
            return None

    def is_lasting(self) -> bool:
        """Whether it is there for the job's whole life: a step that lasts as long as the job is in it."""
        return any(os.path.isdir(os.path.join(self.path, step)) for step in _LASTING_STEPS)

    def is_empty(self) -> bool:
        """Whether no process is in it: after a node was lost, Slurm leaves the job's empty folders behind."""
        events = self._read("cgroup.events")
        if events is not None:
            return "populated 0" in events.splitlines()
        return self._is_tree_empty()

    def _is_tree_empty(self) -> bool:
        """v1 has no such file; where no folder has a list of processes nothing is known, and so not empty."""
        is_known = False
        for folder, _, files in os.walk(self.path):
            if "cgroup.procs" in files:
                text = _text(os.path.join(folder, "cgroup.procs"))
                if text is None or text:
                    return False
                is_known = True
        return is_known

    def counts_cpu(self) -> bool:
        return "cpuacct" in self._files or "cpu.stat" in self._files

    def cpu_us(self) -> int | None:
        """CPU time of the whole job so far in microseconds; None when the cgroup is gone."""
        ns = _number(self._read("cpuacct"))
        if ns is not None:
            return ns // NS_PER_US
        for line in (self._read("cpu.stat") or "").splitlines():
            if line.startswith("usage_usec "):
                return _number(line.split()[1])
        return None

    def memory_bytes(self) -> int | None:
        return _number(self._read("memory"))

    def memory_limit_bytes(self) -> int | None:
        """The job's memory limit; None where there is none."""
        limit = _number(self._read("memory.limit"))
        return limit if limit is not None and limit < _UNLIMITED_FROM else None

    def cpuset(self) -> str | None:
        return self._read("cpuset") or None

    def _read(self, what: str) -> str | None:
        """One file's text; None where it does not exist (any more). A cgroup that is gone answers ENODEV."""
        path = self._files.get(what)
        if path is None:
            return None
        try:
            descriptor = self._descriptors.get(what)
            if descriptor is None:
                descriptor = self._descriptors[what] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(descriptor, 4096, 0).decode("ascii", "replace").strip()
        except OSError:
            self._drop(what)
            return None

    def _drop(self, what: str) -> None:
        descriptor = self._descriptors.pop(what, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        for what in list(self._descriptors):
            self._drop(what)


def _number(text: str | None) -> int | None:
    """A count as the kernel writes it; None for v2's `max` and for nothing."""
    return int(text) if text and text.isascii() and text.isdigit() else None


def find(roots: Roots, node: str, job: int, uid: int | None, sluid: str | None) -> JobCgroup | None:
    """The job's cgroup, or None while there is none."""
    return _find_v2(roots, node, job, sluid) or _find_v1(roots, node, job, uid)


def _find_v2(roots: Roots, node: str, job: int, sluid: str | None) -> JobCgroup | None:
    names = [f"job_{job}"] + ([sluid] if sluid and sluid.isalnum() else [])
    for base in (roots.cgroupfs, os.path.join(roots.cgroupfs, "unified")):
        for scope in ("slurmstepd.scope", f"{node}_slurmstepd.scope"):
            for name in names:
                path = os.path.join(base, "system.slice", scope, name)
                if os.path.exists(os.path.join(path, "cpu.stat")):
                    return JobCgroup(path, _v2_files(path))
    return None


def _v2_files(path: str) -> dict[str, str]:
    files = {
        "cpu.stat": "cpu.stat",
        "memory": "memory.current",
        "memory.limit": "memory.max",
        "cpuset": "cpuset.cpus.effective",
        "cgroup.events": "cgroup.events",
    }
    return {what: os.path.join(path, name) for what, name in files.items()}


def _find_v1(roots: Roots, node: str, job: int, uid: int | None) -> JobCgroup | None:
    wanted = {
        "cpuacct": ("cpuacct", "cpuacct.usage"),
        "memory": ("memory", "memory.usage_in_bytes"),
        "memory.limit": ("memory", "memory.limit_in_bytes"),
        "cpuset": ("cpuset", "cpuset.cpus"),
    }
    files: dict[str, str] = {}
    for what, (controller, name) in wanted.items():
        for parent in (f"slurm_{node}", "slurm"):
            path = os.path.join(roots.cgroupfs, controller, parent, f"uid_{uid}", f"job_{job}", name)
            if os.path.exists(path):
                files[what] = path
                break
    return JobCgroup(os.path.dirname(next(iter(files.values()))), files) if files else None


class Parent:
    """The cgroup above all jobs of a node. Its counter keeps what its removed children used, in v1 and v2 alike."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_v1 = os.path.exists(os.path.join(path, "cpuacct.usage"))
        self._own = self._open(path)
        self._others: dict[str, JobCgroup] = {}

    def identity(self) -> int | None:
        return self._own.identity()

    def cpu_us(self) -> int | None:
        return self._own.cpu_us()

    def others_us(self, jobs: set[str]) -> dict[str, int]:
        """CPU time of every child that is not among `jobs`, by its path: Slurm's own, and jobs that nobody marked."""
        found = {}
        paths = self._children() - jobs
        for path in paths:
            child = self._others.setdefault(path, self._open(path))
            cpu_us = child.cpu_us()
            if cpu_us is not None:
                found[path] = cpu_us
        for path in self._others.keys() - paths:
            self._others.pop(path).close()
        return found

    def _children(self) -> set[str]:
        children = _folders(self.path)
        if not self.is_v1:
            return children
        users = {path for path in children if os.path.basename(path).startswith("uid_")}
        return (children - users).union(*map(_folders, users))

    def _open(self, path: str) -> JobCgroup:
        files = {"cpuacct": "cpuacct.usage"} if self.is_v1 else {"cpu.stat": "cpu.stat"}
        return JobCgroup(path, {what: os.path.join(path, name) for what, name in files.items()})

    def close(self) -> None:
        for cgroup in (self._own, *self._others.values()):
            cgroup.close()


def find_parent(roots: Roots, node: str) -> Parent | None:
    """The cgroup above all jobs, where Slurm has made it."""
    for base in (roots.cgroupfs, os.path.join(roots.cgroupfs, "unified")):
        for scope in (f"{node}_slurmstepd.scope", "slurmstepd.scope"):
            path = os.path.join(base, "system.slice", scope)
            if os.path.exists(os.path.join(path, "cpu.stat")):
                return Parent(path)
    for name in (f"slurm_{node}", "slurm"):
        path = os.path.join(roots.cgroupfs, "cpuacct", name)
        if os.path.exists(os.path.join(path, "cpuacct.usage")):
            return Parent(path)
    return None


def _folders(path: str) -> set[str]:
    try:
        with os.scandir(path) as entries:
            return {entry.path for entry in entries if entry.is_dir(follow_symlinks=False)}
    except OSError:
        return set()


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return None


def kind(roots: Roots) -> str:
    """v1, v2, hybrid or none: what `probe` shows."""
    with contextlib.suppress(OSError):
        if os.path.exists(os.path.join(roots.cgroupfs, "cgroup.controllers")):
            return "v2"
        v1 = os.path.isdir(os.path.join(roots.cgroupfs, "cpuacct"))
        v2 = os.path.exists(os.path.join(roots.cgroupfs, "unified", "cgroup.controllers"))
        return {(True, True): "hybrid", (True, False): "v1", (False, True): "v2"}.get((v1, v2), "none")
    return "none"
