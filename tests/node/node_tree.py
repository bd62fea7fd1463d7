"""A whole node as a directory, its hooks as functions, and a clock that somebody else turns."""

import json
import os
import shutil
from pathlib import Path

from eco2ai_hpc import meters
from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler.host import Host, Moment
from eco2ai_hpc.sampler.loop import Sampler, Settings

METER_TREES = Path(__file__).parents[1] / "fixtures" / "meters"
TWO_SOCKETS = METER_TREES / "rapl" / "intel-two-sockets-with-dram"
BOOT_ID = "2f0c6a52-6f0e-4a0c-9d7e-1b7f9c2d4e10"
SECOND = 1_000_000_000
# 2026-11-23T10:00:00Z, a wall-clock multiple of every interval used here; the node has been up for a day.
TEN_O_CLOCK = 1_795_428_000 * SECOND
ONE_DAY = 86_400 * SECOND


class Clock:
    """Both clocks of a node. `wall_ns` may be set; `boot_ns` only goes on."""

    def __init__(self) -> None:
        self.wall_ns = TEN_O_CLOCK
        self.boot_ns = ONE_DAY

    def __call__(self) -> Moment:
        return Moment(self.wall_ns, self.boot_ns)

    def go_on(self, seconds: float) -> Moment:
        self.wall_ns += round(seconds * SECOND)
        self.boot_ns += round(seconds * SECOND)
        return self()

    def set_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock by so much."""
        self.wall_ns += round(seconds * SECOND)

    @property
    def uptime(self) -> str:
        """As /proc/uptime has it: to 10 ms, cut off."""
        return f"{self.boot_ns // 10_000_000 / 100:.2f}"


class Node:
    """Directories of one node, and the samplers that ran on it."""

    def __init__(self, directory: Path, clock: Clock, tree: Path = TWO_SOCKETS) -> None:
        self.directory = directory
        self.clock = clock
        self.tree = directory / "machine"
        shutil.copytree(tree, self.tree, symlinks=True)
        (self.tree / "cgroup").mkdir()
        self.roots = Roots(*(str(self.tree / name) for name in ("sys", "proc", "cgroup")))
        self.run_dir = directory / "run"
        self.spool_dir = directory / "spool"
        self.segments = self.spool_dir / "lab" / "n1"
        self._samplers: list[Sampler] = []
        self._hooks = 0

    def sampler(self, *, interval_s: float = 30.0, seal_s: float = 300.0, opened=None) -> Sampler:
        """A sampler that has prepared its run directory and not begun."""
        settings = Settings("lab", "n1", str(self.spool_dir), str(self.run_dir), self.roots, interval_s, seal_s)
        if opened is None:
            opened = meters.open_all(self.roots, settings.options)
        sampler = Sampler(settings, Host(self.roots), opened, self.clock)
        sampler.prepare()
        self._samplers.append(sampler)
        return sampler

    def begin(self, **options) -> Sampler:
        sampler = self.sampler(**options)
        sampler.begin(self.clock())
        return sampler

    def close(self) -> None:
        for sampler in self._samplers:
            sampler.close()

    def run(self, sampler: Sampler, seconds: float) -> None:
        """Let so much time pass; the sampler wakes when it would."""
        end_ns = self.clock.boot_ns + round(seconds * SECOND)
        while self.clock.boot_ns < end_ns:
            wait_ns = sampler._wait_ms(self.clock()) * 1_000_000
            self.clock.go_on(min(wait_ns, end_ns - self.clock.boot_ns) / SECOND)
            sampler.step(self.clock())

    def mark(self, edge: str, job: int, **env: str | bytes) -> Path:
        """What a hook leaves, now."""
        records = {"mark": "1", "edge": edge, "uptime": self.clock.uptime, "SLURM_JOB_ID": str(job), **env}
        return self.raw_mark(f"{edge}.{job}.{self._next_hook()}", encode(records | {"complete": "1"}))

    def raw_mark(self, name: str, content: bytes) -> Path:
        path = self.run_dir / "marks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(self.clock.wall_ns, self.clock.wall_ns))
        return path

    def _next_hook(self) -> int:
        self._hooks += 1
        return 1000 + self._hooks

    def counter(self, zone: str, value: object) -> None:
        (self.tree / "sys/class/powercap" / zone / "energy_uj").write_text(f"{value}\n")

    def lines(self, kind: str | None = None) -> list[dict]:
        """All lines of all segments, in the order in which they were written."""
        return [line for line in read_lines(self.segments) if kind in (None, line["k"])]

    def ticks(self) -> list[dict]:
        return self.lines("tick")


def encode(records: dict[str, str | bytes]) -> bytes:
    """NUL-separated records, as a hook writes them."""
    return b"".join(os.fsencode(key) + b"=" + os.fsencode(value) + b"\0" for key, value in records.items())


def read_lines(directory: Path) -> list[dict]:
    paths = sorted(directory.glob("*.ndjson*"), key=lambda path: (path.stat().st_ctime_ns, path.name))
    segments = [[json.loads(line) for line in path.read_bytes().splitlines()] for path in paths]
    return [line for segment in sorted(filter(None, segments), key=lambda lines: lines[0]["bt"]) for line in segment]


def write_tree(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
