"""One line on a node's health, for HealthCheckProgram and people: it can never drain a node by surprise.

Exit status 0 whatever it finds; with `strict` 1 where something is wrong. It answers within three seconds, a spool
that hangs included, changes nothing and needs no Slurm.
"""

import os
import signal
import time
from types import FrameType
from typing import NamedTuple, NoReturn

_ANSWER_WITHIN_S = 3
_LATE_AFTER_S = 120.0
_LOW_BYTES = 64 * 1024 * 1024
_DISABLED = "/etc/eco2ai-hpc/disabled"


class Finding(NamedTuple):
    """One thing that is wrong, and what to do about it."""

    what: str
    remedy: str


def main(run_dir: str, spool_dir: str, *, strict: bool) -> int:
    """Print the line; returns the exit status."""
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(_ANSWER_WITHIN_S)
    try:
        found = examine(run_dir, spool_dir)
    except TimeoutError:
        found = [Finding("the spool or the run directory does not answer", f"look at the disks of {spool_dir}")]
    finally:
        signal.alarm(0)
    if not found:
        print("ok: the sampler runs and writes")
        return 0
    print("warning: " + "; ".join(f"{finding.what} (try: {finding.remedy})" for finding in found))
    return 1 if strict else 0


def _too_late(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError


def examine(run_dir: str, spool_dir: str) -> list[Finding]:
    """Everything that is wrong on this node; empty when nothing is."""
    for switch in (os.path.join(run_dir, "disabled"), _DISABLED):
        if os.path.exists(switch):
            return [Finding("switched off", f"rm {switch}")]
    found = []
    if not _sampler_runs(run_dir):
        found.append(Finding("no sampler runs", "systemctl start eco2ai-sampler, or wait for the next prolog"))
    found += _evidence(spool_dir, alive=not found)
    waiting = _oldest_mark_s(run_dir)
    if waiting is not None and waiting > _LATE_AFTER_S:
        found.append(Finding(f"a job's mark waits since {waiting:.0f} s", "is the sampler alive?"))
    return found


def _sampler_runs(run_dir: str) -> bool:
    """Whether the process of the pid file is still the one that wrote it (its start time is the same)."""
    try:
        with open(os.path.join(run_dir, "sampler.pid"), encoding="ascii") as file:
            pid, started = file.read().split()
        with open(f"/proc/{int(pid)}/stat", encoding="utf-8", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
        return state not in "ZX" and fields[18] == started
    except (OSError, ValueError, IndexError):
        return False


def _evidence(spool_dir: str, *, alive: bool) -> list[Finding]:
    try:
        room = os.statvfs(spool_dir)
    except OSError as error:
        return [Finding(f"no spool at {spool_dir}: {error.strerror}", f"mkdir -m 0700 {spool_dir}")]
    found = []
    free = room.f_bavail * room.f_frsize
    if free < _LOW_BYTES:
        found.append(Finding(f"{free // 2**20} MiB left for the spool", "is the collector running?"))
    newest = _newest_write(spool_dir)
    if alive and (newest is None or time.time() - newest > _LATE_AFTER_S):
        age = "never" if newest is None else f"{time.time() - newest:.0f} s ago"
        found.append(Finding(f"last reading written {age}", "eco2ai-sampler probe; is the disk full or read-only?"))
    return found


def _newest_write(spool_dir: str) -> float | None:
    times = []
    for base, _, files in os.walk(spool_dir):
        for name in files:
            try:
                times.append(os.stat(os.path.join(base, name)).st_mtime)
            except OSError:
                continue
    return max(times, default=None)


def _oldest_mark_s(run_dir: str) -> float | None:
    ages = []
    try:
        names = os.listdir(os.path.join(run_dir, "marks"))
    except OSError:
        return None
    for name in names:
        try:
            ages.append(time.time() - os.stat(os.path.join(run_dir, "marks", name)).st_mtime)
        except OSError:
            continue
    return max(ages, default=None)
