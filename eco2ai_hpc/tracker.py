"""Local mode: account commands on a machine without Slurm, through the very same sampler, spool, ledger and SQL.

A command runs as a session of its own; its start and end are marks like a prolog's and an epilog's. The sampler reads
the machine's counters meanwhile, and the books are closed when the session of commands ends.
"""

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from eco2ai_hpc.collector import Summary, collect
from eco2ai_hpc.config import Site
from eco2ai_hpc.errors import SurroundingsError

_READY_WITHIN_S = 10.0
_CLAIMED_WITHIN_S = 2.0
# Waits at a FIFO ($0), so that the command begins after its start was recorded.
_HELD_BACK = 'read -r _ <"$0"; exec "$@"'


class LocalJob:
    """One command of a local session."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.name = name
        self.process = process
        self._directory = directory
        self.status: int | None = None

    def wait(self) -> int:
        """Wait for the command and record its end; returns its exit status, negative for a signal."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.status = self.process.returncode = os.waitstatus_to_exitcode(status)
        cpu_us = round((usage.ru_utime + usage.ru_stime) * 1e6)
        values = {"ECO2AI_HPC_CPU_US": str(cpu_us), "SLURM_JOB_EXIT_CODE": str(self.status)}
        _mark(self._directory, "end", self.process.pid, values)
        return self.status


class LocalSession(AbstractContextManager["LocalSession"]):
    """A sampler of one's own, and the commands that it accounts.

    Everything is below `directory`: run/, spool/, ledger.duckdb. `tdp_w` is passed to the model meter.
    """

    def __init__(
        self, directory: Path, *, interval_s: float = 1.0, tdp_w: float | None = None, tdp_source: str = "configured"
    ) -> None:
        self.directory = directory
        self._run_dir = directory / "run"
        self._spool_dir = directory / "spool"
        self.ledger = directory / "ledger.duckdb"
        self._options = ["--interval", str(interval_s)]
        if tdp_w is not None:
            self._options += ["--tdp-w", str(tdp_w), "--tdp-source", tdp_source]
        self._sampler: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "eco2ai_hpc.sampler", "run", "--foreground", "--manager", "local"]
        command += ["--run-dir", str(self._run_dir), "--spool-dir", str(self._spool_dir), *self._options]
        self._sampler = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + _READY_WITHIN_S
        while not list(self._spool_dir.glob("*/*/*.part")):
            if self._sampler.poll() is not None or time.monotonic() > deadline:
                raise SurroundingsError(f"the sampler did not start: {self._last_words()}")
            time.sleep(0.02)
        return self

    def _last_words(self) -> str:
        assert self._sampler and self._sampler.stderr
        self._sampler.kill()
        return self._sampler.stderr.read().decode(errors="replace").strip() or "it was too slow"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is not None and self._sampler.poll() is None:
            self._sampler.send_signal(signal.SIGTERM)
            self._sampler.wait(timeout=30)
        if self._sampler is not None and self._sampler.stderr is not None:
            self._sampler.stderr.close()

    def start(self, name: str, command: Sequence[str], *, stdout: IO[bytes] | int | None = None) -> LocalJob:
        """Start a command in a session of its own, after its start was recorded."""
        gate = self._run_dir / f"gate.{os.urandom(4).hex()}"
        os.mkfifo(gate, 0o600)
        try:
            held_back = ["/bin/sh", "-c", _HELD_BACK, str(gate), *command]
            process = subprocess.Popen(held_back, start_new_session=True, stdout=stdout)
            mark = _mark(self._run_dir, "start", process.pid, {"ECO2AI_HPC_SESSION": str(process.pid), **_who(name)})
            deadline = time.monotonic() + _CLAIMED_WITHIN_S
            while mark.exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            gate.write_bytes(b"\n")
        finally:
            gate.unlink()
        return LocalJob(name, process, self._run_dir)

    def close_books(self, site: Site) -> Summary:
        """Load what was recorded into the session's own ledger."""
        return collect(str(self.ledger), [str(self._spool_dir)], site, jobs="none")


def probe() -> dict[str, object]:
    """What can be measured on this machine: `eco2ai-sampler probe --json`."""
    command = [sys.executable, "-m", "eco2ai_hpc.sampler", "probe", "--json"]
    found: dict[str, object] = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    return found


def doctor(run_dir: str, spool_dir: str, *, strict: bool) -> tuple[str, int]:
    """A node's health in one line, and the exit status: `eco2ai-sampler doctor`."""
    command = [sys.executable, "-m", "eco2ai_hpc.sampler", "doctor", "--run-dir", run_dir, "--spool-dir", spool_dir]
    done = subprocess.run(command + ["--strict"] * strict, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip(), done.returncode


def _who(name: str) -> dict[str, str]:
    return {"ECO2AI_HPC_NAME": name, "SLURM_JOB_USER": getpass.getuser(), "SLURM_JOB_UID": str(os.getuid())}


def _mark(run_dir: Path, edge: str, job: int, values: Mapping[str, str]) -> Path:
    """Leave a mark as the hooks do, and poke the sampler."""
    uptime = Path("/proc/uptime").read_text(encoding="ascii").split()[0]
    records = {"mark": "1", "edge": edge, "uptime": uptime, "SLURM_JOB_ID": str(job), **values, "complete": "1"}
    partial = run_dir / "marks" / f".tmp.{job}"
    partial.write_bytes(
        b"".join(f"{key}={value}\0".encode("utf-8", "surrogateescape") for key, value in records.items())
    )
    mark = partial.with_name(f"{edge}.{job}.{os.getpid()}")
    partial.rename(mark)
    poke = os.open(run_dir / "poke", os.O_RDWR | os.O_NONBLOCK)
    os.write(poke, b"x")
    os.close(poke)
    return mark
