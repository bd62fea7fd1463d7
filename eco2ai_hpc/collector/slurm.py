"""Ask Slurm itself: job records from sacct, node capacities from scontrol.

The texts they print are read by sacct.py and nodes.py, which need no Slurm.
"""

import codecs
import os
import secrets
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO

from eco2ai_hpc.collector.nodes import cpus_on_node, expand_nodes, parse_node_specs
from eco2ai_hpc.collector.sacct import FIELDS, NEEDED, read_sacct_file, read_sacct_text
from eco2ai_hpc.errors import BadInputError, SurroundingsError
from eco2ai_hpc.model import NodeSpec, Problem, SlurmJob

__all__ = [
    "cpus_on_node",
    "expand_nodes",
    "parse_node_specs",
    "read_node_specs",
    "read_sacct_file",
    "read_sacct_text",
    "run_sacct",
]

SACCT_TIMEOUT_S = 600.0
SCONTROL_TIMEOUT_S = 60.0
EARLIEST_S = 1_000_000
"""sacct calls an earlier `uts` an invalid time (22.05.8)."""
CHUNK_BYTES = 65536
STDERR_LINES = 3
WITHOUT_SACCT = "name a file that sacct wrote with --jobs FILE, or leave job records out with --jobs none"


def run_sacct(
    from_s: int, to_s: int, *, cluster: str, timeout_s: float = SACCT_TIMEOUT_S
) -> Iterator[SlurmJob | Problem]:
    """Yield the records of the jobs that touch the period from_s to to_s (UTC epoch seconds), earlier runs included.

    Asks sacct for what it knows of FIELDS, under a random delimiter. Jobs of all users: that takes an operator's rights
    where PrivateData hides jobs. cluster names records without a Cluster. Every column is as in read_sacct_text.
    Raises SurroundingsError where sacct is missing, fails or has kept us waiting for timeout_s altogether; a failure
    may show after the first records, so keep none of them before the last one has come.
    """
    known = _known_fields(timeout_s)
    fields = [name for name in FIELDS if name.lower() in known]
    command = ["sacct", "-a", "-X", "-D", "-P", "--noconvert", f"--delimiter=@{secrets.token_hex(8)}@"]
    first_s, last_s = max(from_s, EARLIEST_S), max(to_s, EARLIEST_S)
    command += ["-S", f"uts{first_s}", "-E", f"uts{last_s}", "-o", ",".join(fields)]
    lines = _output_lines(
        command, timeout_s=timeout_s, hint=WITHOUT_SACCT, environment={"TZ": "UTC", "SLURM_TIME_FORMAT": "%s"}
    )
    try:
        yield from read_sacct_text(lines, source="sacct", default_cluster=cluster, time_zone="UTC")
    except BadInputError as error:
        raise SurroundingsError(f"sacct answered what it was not asked: {error}", hint=WITHOUT_SACCT) from error


def _known_fields(timeout_s: float) -> set[str]:
    """The fields that this sacct has, lower case. It refuses the whole call for one that it has not."""
    lines = _output_lines(["sacct", "--helpformat"], timeout_s=timeout_s, hint=WITHOUT_SACCT)
    known = {name.lower() for line in lines for name in line.split()}
    missing = [name for name in (*NEEDED, "JobIDRaw") if name.lower() not in known]
    if missing:
        raise SurroundingsError(f"sacct --helpformat does not name {', '.join(missing)}", hint=WITHOUT_SACCT)
    return known


def read_node_specs(*, timeout_s: float = SCONTROL_TIMEOUT_S) -> list[NodeSpec]:
    """What Slurm may allocate on each of its nodes, by `scontrol show node -o`.

    A node whose line cannot be read is left out. Raises SurroundingsError where scontrol is missing, fails, hangs, or
    where no line at all can be read.
    """
    hint = "run where Slurm's commands work"
    lines = _output_lines(["scontrol", "show", "node", "-o"], timeout_s=timeout_s, hint=hint)
    found = list(parse_node_specs(lines))
    specs = [item for item in found if isinstance(item, NodeSpec)]
    problems = [item for item in found if isinstance(item, Problem)]
    if problems and not specs:
        raise SurroundingsError(
            f"scontrol show node: expected {problems[0].expected}, found {problems[0].found}", hint=hint
        )
    return specs


def _output_lines(
    command: list[str], *, timeout_s: float, hint: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield the lines that a command prints, without their newline, and fail if the command did.

    timeout_s bounds the time spent waiting for the command, not what the caller does between two lines. However this
    ends, the command and its children have ended too.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise SurroundingsError(f"{command[0]} cannot be run: {error.strerror}", hint=hint) from error
        try:
            assert process.stdout is not None
            yield from _lines(process.stdout, _Patience(command[0], timeout_s))
            _check_end(process, command[0], errors, timeout_s, hint)
        finally:
            _stop(process)


class _Patience:
    """How long a command may still keep us waiting."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.left_s = timeout_s

    def wait_for(self, stream: IO[bytes]) -> None:
        before = time.monotonic()
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        ready = poll.poll(max(self.left_s, 0) * 1000)
        self.left_s -= time.monotonic() - before
        if not ready:
            raise _timed_out(self.name, self.timeout_s)


def _timed_out(name: str, timeout_s: float) -> SurroundingsError:
    return SurroundingsError(
        f"{name} did not finish within {timeout_s:g} s and was stopped",
        hint="ask for a shorter period, or look whether slurmdbd answers: sacctmgr ping",
    )


def _lines(stream: IO[bytes], patience: _Patience) -> Iterator[str]:
    r"""Yield text between newlines; a carriage return is a character, bytes that are not UTF-8 become `\xff`."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    rest = ""
    while True:
        patience.wait_for(stream)
        chunk = os.read(stream.fileno(), CHUNK_BYTES)
        *lines, rest = (rest + decoder.decode(chunk, final=not chunk)).split("\n")
        yield from lines
        if not chunk:
            break
    if rest:
        yield rest


def _check_end(process: subprocess.Popen[bytes], name: str, errors: IO[bytes], timeout_s: float, hint: str) -> None:
    try:
        code = process.wait(timeout=timeout_s)  # its output has ended: this is a formality
    except subprocess.TimeoutExpired as error:
        raise _timed_out(name, timeout_s) from error
    if code == 0:
        return
    errors.seek(0)
    said = errors.read(CHUNK_BYTES).decode(errors="backslashreplace").splitlines()[:STDERR_LINES]
    ending = f"was ended by signal {-code}" if code < 0 else f"failed with exit status {code}"
    raise SurroundingsError(f"{name} {ending}: {'; '.join(said) or 'it said nothing'}", hint=hint)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not reaped: its process group is still its own, even if only children are left
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
