"""Job starts and ends as the hooks leave them: one file a mark, claimed by rename: no crash loses or doubles one.

RUN_DIR/marks/{start,end}.JOB.PID   written by prolog and epilog, NUL-separated KEY=value records (as /proc/PID/environ)
RUN_DIR/jobs/<run key>              a claimed start: the run is alive; what a restarted sampler goes on with
RUN_DIR/state                       what was known of the runs at the last reading, for the same
"""

import contextlib
import json
import os
import re
import stat
from typing import Any, NamedTuple

from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.units import NS_PER_S

_CLOCKS_AGREE_NS = NS_PER_S // 2
_TORN_AFTER_NS = 10 * NS_PER_S
_UNFINISHED_AFTER_NS = 600 * NS_PER_S
_BOOT_FILE = "boot_id"
_STATE_FILE = "state"
# Slurm's ids have 32 bits. `isdigit` would let through what int() does not take, and the mark would stay for ever.
_ID = re.compile(r"[0-9]{1,10}")
_SLUID = re.compile(r"[0-9A-Za-z]{1,64}")


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
        return int(text) if _ID.fullmatch(text) else None

    @property
    def sluid(self) -> str | None:
        text = self.env.get("SLURM_JOB_SLUID", "")
        return text if _SLUID.fullmatch(text) else None


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
        if os.path.lexists(self.poke) and not stat.S_ISFIFO(os.lstat(self.poke).st_mode):
            os.unlink(self.poke)  # a plain file is always "readable": the loop would never wait
        if not os.path.lexists(self.poke):
            os.mkfifo(self.poke, 0o600)

    def forget_other_boots(self, boot_id: str, now: Moment) -> tuple[str, list[tuple[str, Mark]]]:
        """Drop what was left before this boot, where the run directory outlives one (it is a tmpfs by default).

        Returns the earlier boot's id and the runs that it took along; the times of their marks mean nothing any more.
        """
        path = os.path.join(self.path, _BOOT_FILE)
        last, taken_along = "", []
        with contextlib.suppress(OSError):
            with open(path, encoding="ascii", errors="replace") as file:
                last = file.read().strip()
            if last and last != boot_id:
                taken_along = self.alive(now)
                for run in _listdir(self.jobs):
                    self.forget(os.path.join(self.jobs, run))
                for mark in _listdir(self.marks):
                    if _age_ns(os.path.join(self.marks, mark), now) > now.boot_ns:
                        self.forget(os.path.join(self.marks, mark))
        with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
            file.write(boot_id + "\n")
        return last, taken_along

    def load_state(self) -> dict[str, Any]:
        """What `save_state` saved last; nothing where it did not, or somebody else wrote there."""
        try:
            with open(os.path.join(self.path, _STATE_FILE), encoding="ascii") as file:
                found = json.load(file)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep it for the next sampler of this boot; not flushed, the directory is a tmpfs."""
        path = os.path.join(self.path, _STATE_FILE)
        with contextlib.suppress(OSError):
            descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, json.dumps(state, separators=(",", ":")).encode("ascii"))
            finally:
                os.close(descriptor)
            os.rename(path + ".new", path)

    def pending(self, now: Moment) -> tuple[list[Mark], list[str]]:
        """The marks not yet claimed, oldest first, and the paths of torn ones (which are removed after a while)."""
        found, torn = [], []
        for name in _listdir(self.marks):
            path = os.path.join(self.marks, name)
            if name.startswith("."):  # a hook is writing it, or was killed at it
                if _age_ns(path, now) > _UNFINISHED_AFTER_NS:
                    self.forget(path)
                continue
            mark = read_mark(path, now)
            if mark is not None:
                found.append(mark)
            elif _age_ns(path, now) > _TORN_AFTER_NS:
                torn.append(path)
                self.forget(path)
        return sorted(found, key=lambda mark: (mark.at.boot_ns, mark.edge != "end", mark.path)), torn

    def claim(self, mark: Mark, run_key: str) -> None:
        """From now on the run is alive; a crash after this line is mended by `alive`."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(mark.path, os.path.join(self.jobs, run_key))

    def alive(self, now: Moment) -> list[tuple[str, Mark]]:
        """The runs that an earlier sampler of this boot left, with their start marks."""
        runs = []
        for name in sorted(_listdir(self.jobs)):
            path = os.path.join(self.jobs, name)
            mark = read_mark(path, now)
            if mark is None:
                self.forget(path)
            else:
                runs.append((name, mark))
        return runs

    def release(self, run_key: str) -> None:
        self.forget(os.path.join(self.jobs, run_key))

    def forget(self, path: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _listdir(path: str) -> list[str]:
    """A run directory that somebody removed holds nothing; hooks make it anew."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def _age_ns(path: str, now: Moment) -> int:
    try:
        return now.wall_ns - os.lstat(path).st_mtime_ns
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
    if edge not in ("start", "end") or not _ID.fullmatch(job):
        return None
    return Mark(path, edge, int(job), env, _moment(wall_ns, env.pop("uptime", ""), now))


def _split(record: bytes) -> tuple[str, str]:
    key, _, value = record.decode("utf-8", "surrogateescape").partition("=")
    return key, value


def _moment(wall_ns: int, uptime: str, now: Moment) -> Moment:
    boot_ns = now.boot_ns - (now.wall_ns - wall_ns)
    try:
        by_uptime = round(float(uptime) * NS_PER_S)
    except (ValueError, OverflowError):
        by_uptime = boot_ns
    if abs(by_uptime - boot_ns) > _CLOCKS_AGREE_NS:
        boot_ns = by_uptime
    boot_ns = max(0, min(boot_ns, now.boot_ns))
    return Moment(now.wall_ns - (now.boot_ns - boot_ns), boot_ns)
