"""A Slurm job's CPU time, memory and cpuset from its cgroup, wherever this Slurm puts it.

v1: <controller>/slurm[_<node>]/uid_U/job_J.  v2: system.slice/[<node>_]slurmstepd.scope/{job_J | <SLUID>}, also below
`unified` on hybrid hosts. Slurm >= 26.05 names the v2 folder by SLUID unless CgroupJobIdPaths=yes (cgroup.conf(5)).
The folder does not exist yet at prolog and is gone at epilog: values are read while the job lives, the last one stays.
"""

import contextlib
import os

from eco2ai_hpc.model import Roots
from eco2ai_hpc.units import NS_PER_US

# v1 writes "no limit" as the largest multiple of the page size below 2^63.
_UNLIMITED_FROM = 1 << 62


class JobCgroup:
    """Held descriptors on one job's cgroup files."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._descriptors: dict[str, int] = {}

    def identity(self) -> int | None:
        """Tells this cgroup from a later one of the same name: the kernel numbers cgroups and does not go back."""
        try:
            return os.stat(os.path.dirname(self._files.get("cpuacct") or self._files["cpu.stat"])).st_ino
        except (OSError, KeyError):
            return None

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
                    return JobCgroup(_v2_files(path))
    return None


def _v2_files(path: str) -> dict[str, str]:
    files = {
        "cpu.stat": "cpu.stat",
        "memory": "memory.current",
        "memory.limit": "memory.max",
        "cpuset": "cpuset.cpus.effective",
    }
    return {what: os.path.join(path, name) for what, name in files.items()}


def _find_v1(roots: Roots, node: str, job: int, uid: int | None) -> JobCgroup | None:
    wanted = {
        "cpuacct": ("cpuacct", "cpuacct.usage"),
        "memory": ("memory", "memory.usage_in_bytes"),
        "memory.limit": ("memory", "memory.limit_in_bytes"),
        "cpuset": ("cpuset", "cpuset.cpus"),
    }
    files = {}
    for what, (controller, name) in wanted.items():
        for parent in (f"slurm_{node}", "slurm"):
            path = os.path.join(roots.cgroupfs, controller, parent, f"uid_{uid}", f"job_{job}", name)
            if os.path.exists(path):
                files[what] = path
                break
    return JobCgroup(files) if files else None


def kind(roots: Roots) -> str:
    """v1, v2, hybrid or none: what `probe` shows."""
    with contextlib.suppress(OSError):
        if os.path.exists(os.path.join(roots.cgroupfs, "cgroup.controllers")):
            return "v2"
        v1 = os.path.isdir(os.path.join(roots.cgroupfs, "cpuacct"))
        v2 = os.path.exists(os.path.join(roots.cgroupfs, "unified", "cgroup.controllers"))
        return {(True, True): "hybrid", (True, False): "v1", (False, True): "v2"}.get((v1, v2), "none")
    return "none"
