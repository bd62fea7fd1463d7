"""Job starts and ends as the hooks leave them: one file a mark, claimed by rename: no crash loses or doubles one.

RUN_DIR/marks/{start,end}.JOB.PID   written by prolog and epilog, NUL-separated KEY=value records (as /proc/PID/environ)
RUN_DIR/jobs/<run key>              a claimed start: the run is alive; what a restarted sampler goes on with
"""

import contextlib
import os
from typing import NamedTuple

from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.units import NS_PER_S

_CLOCKS_AGREE_NS = NS_PER_S // 2
_TORN_AFTER_NS = 10 * NS_PER_S


class Mark(NamedTuple):
    """What one hook said."""

    path: str
    edge: str
    """start or end."""
    job: int
    env: dict[str, str]
    """Slurm's variables, raw. Bytes that are not UTF-8 are kept as surrogates."""
    at: Moment

    @property
    def uid(self) -> int | None:
        text = self.env.get("SLURM_JOB_UID", "")
        return int(text) if text.isdigit() else None

    @property
    def sluid(self) -> str | None:
        return self.env.get("SLURM_JOB_SLUID") or None


class RunDirectory:
    """The node's run directory: marks come in here, running jobs are remembered here."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.marks = os.path.join(path, "marks")
        self.jobs = os.path.join(path, "jobs")
        self.poke = os.path.join(path, "poke")

    def prepare(self) -> None:
        """Make what is missing: the directory itself is open to read (the socket), its contents are root's."""
        os.makedirs(self.path, mode=0o755, exist_ok=True)
        for directory in (self.marks, self.jobs):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        if not os.path.exists(self.poke):
            os.mkfifo(self.poke, 0o600)

    def pending(self, now: Moment) -> tuple[list[Mark], list[str]]:
        """The marks not yet claimed, oldest first, and the paths of torn ones (which are removed)."""
        found, torn = [], []
        for name in os.listdir(self.marks):
            if name.startswith("."):
                continue
            path = os.path.join(self.marks, name)
            mark = read_mark(path, now)
            if mark is not None:
                found.append(mark)
            elif _age_ns(path) > _TORN_AFTER_NS:
                torn.append(path)
                self.forget(path)
        return sorted(found, key=lambda mark: (mark.at.boot_ns, mark.edge != "end", mark.path)), torn

    def claim(self, mark: Mark, run_key: str) -> None:
        """From now on the run is alive; a crash after this line is mended by `alive`."""
        os.rename(mark.path, os.path.join(self.jobs, run_key))

    def alive(self, now: Moment) -> list[tuple[str, Mark]]:
        """The runs that an earlier sampler of this boot left, with their start marks."""
        runs = []
        for name in sorted(os.listdir(self.jobs)):
            path = os.path.join(self.jobs, name)
            mark = read_mark(path, now)
            if mark is None or mark.at.boot_ns < 0:
                self.forget(path)
            else:
                runs.append((name, mark))
        return runs

    def release(self, run_key: str) -> None:
        self.forget(os.path.join(self.jobs, run_key))

    def forget(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _age_ns(path: str) -> int:
    try:
        return Moment.now().wall_ns - os.stat(path).st_mtime_ns
    except OSError:
        return 0


def read_mark(path: str, now: Moment) -> Mark | None:
    """Read one mark; None where it is torn or not a mark.

    Its time is the file's modification time, moved to both clocks; where the wall clock stepped since, /proc/uptime
    as the hook read it decides (10 ms grain).
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
            wall_ns = os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None
    env = dict(_split(record) for record in content.split(b"\0") if b"=" in record)
    edge, job = env.pop("edge", ""), env.get("SLURM_JOB_ID", "")
    if env.pop("complete", None) != "1" or env.pop("mark", None) != "1":
        return None
    if edge not in ("start", "end") or not job.isdigit():
        return None
    return Mark(path, edge, int(job), env, _moment(wall_ns, env.pop("uptime", ""), now))


def _split(record: bytes) -> tuple[str, str]:
    key, _, value = record.decode("utf-8", "surrogateescape").partition("=")
    return key, value


def _moment(wall_ns: int, uptime: str, now: Moment) -> Moment:
    boot_ns = now.boot_ns - (now.wall_ns - wall_ns)
    try:
        by_uptime = round(float(uptime) * NS_PER_S)
    except ValueError:
        by_uptime = boot_ns
    if abs(by_uptime - boot_ns) > _CLOCKS_AGREE_NS:
        boot_ns = by_uptime
    return Moment(now.wall_ns - (now.boot_ns - boot_ns), min(boot_ns, now.boot_ns))
