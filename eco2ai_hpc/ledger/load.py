"""Evidence into the ledger: a batch of segments in one transaction, so that each is in exactly once or not at all."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from eco2ai_hpc.errors import SpoolError
from eco2ai_hpc.ledger.connection import Ledger, Row, UnusableRowsError, sql_text
from eco2ai_hpc.model import Problem
from eco2ai_hpc.spool import Segment

_SEGMENT = (
    "cluster", "node", "boot_id", "sampler_run", "seq", "digest", "previous_digest", "intact", "recovered", "lines",
    "marks", "began_at_utc", "interval_ns", "manager", "software", "cpus", "sockets", "memory_bytes", "cpu_model",
    "file", "size_bytes", "ingested_at_utc",
)  # fmt: skip
_ZONE = ("cluster", "node", "boot_id", "sampler_run", "zone", "domain", "wrap_uj", "max_uw", "used", "why", "method")
_MARK = (
    "cluster", "node", "run_key", "edge", "name", "boot_id", "boottime_ns", "marked_at_utc", "job_id", "sluid", "uid",
    "user_name", "account", "partition", "job_name", "cpus", "gpus", "environment", "why", "sampler_run", "seq", "line",
)  # fmt: skip

CpusOnNode = Callable[[str, str, str], int | None]
"""(node list, CPUs per node, node) -> CPUs of the job on that node: the collector's expansion of Slurm's strings."""


def utc_now() -> datetime:
    """Now, as the ledger stores it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def known_digests(ledger: Ledger) -> dict[tuple[str, str, str, str, int], str]:
    """The digest of every segment that is in, by its key."""
    found = ledger.rows(sql_text("load", "known_digests.sql"))
    return {(r["cluster"], r["node"], r["boot_id"], r["sampler_run"], r["seq"]): r["digest"] for r in found}


def load_segments(ledger: Ledger, segments: Sequence[Segment], cpus_on_node: CpusOnNode) -> int:
    """Load a batch, all or nothing; returns how many lines could not be read (each is in ingest_problem then).

    Raises SpoolError where a value of some segment fits no column: the caller finds out which (collector/segments.py).
    """
    try:
        return _load_segments(ledger, segments, cpus_on_node)
    except UnusableRowsError as error:
        raise SpoolError(str(error)) from None


def _load_segments(ledger: Ledger, segments: Sequence[Segment], cpus_on_node: CpusOnNode) -> int:
    with ledger.transaction():
        ledger.run_file("load", "batch.sql")
        ledger.insert("batch", ("file", *_SEGMENT[:5]), [(s.path, *segment_key(s)) for s in segments])
        ledger.run(sql_text("load", "raw_line.sql"), {"files": [segment.path for segment in segments]})
        ledger.run_file("load", "rows.sql")
        marks = _load_marks(ledger, cpus_on_node)
        problems = _unreadable(ledger, segments)
        add_problems(ledger, problems)
        ledger.insert("zone", _ZONE, [row for segment in segments for row in _zones(segment)])
        ledger.insert("segment", _SEGMENT, [_segment(segment, marks.get(segment.path, 0)) for segment in segments])
        ledger.run_file("load", "slots.sql")
    return len(problems)


def add_problems(ledger: Ledger, problems: Sequence[Problem]) -> None:
    """Remember what could not be used, each once."""
    now = utc_now()
    rows = [(_digest(repr(problem)), *problem, now) for problem in problems]
    ledger.insert("ingest_problem", ("id", *Problem._fields, "seen_at_utc"), rows)


def segment_key(segment: Segment) -> tuple[str, str, str, str, int]:
    """(cluster, node, boot id, sampler run, sequence)."""
    header = segment.header
    return header["cluster"], header["node"], header["boot"], header["sampler"], header["seq"]


def _segment(segment: Segment, marks: int) -> tuple[Any, ...]:
    header = segment.header
    interval_s, mem_mib = header.get("interval_s"), header.get("mem_mib")
    return (
        *segment_key(segment),
        segment.sha256,
        header.get("prev"),
        segment.intact,
        segment.seal.recovered,
        segment.lines,
        marks,
        _timestamp(header.get("t")),
        round(interval_s * 1e9) if interval_s else None,
        header.get("manager"),
        header.get("software"),
        header.get("cpus"),
        header.get("sockets"),
        mem_mib * 1024 * 1024 if mem_mib else None,
        header.get("cpu_model"),
        segment.path,
        segment.size_bytes,
        utc_now(),
    )


def _zones(segment: Segment) -> list[tuple[Any, ...]]:
    key = segment_key(segment)[:4]
    return [
        (*key, zone, *(about.get(name) for name in ("domain", "wrap", "max_uw", "used", "why")), _method(zone, about))
        for zone, about in segment.header["zones"].items()
    ]


def _method(zone: str, about: Row) -> str:
    """How the counter came about; a writer that does not say has counters, but for the model meter."""
    return about.get("method") or ("modelled" if zone.startswith("model:") else "counter")


def _load_marks(ledger: Ledger, cpus_on_node: CpusOnNode) -> dict[str, int]:
    """Insert the marks of the batch; returns how many lines of each file were marks."""
    rows, per_file = [], dict[str, int]()
    for mark in ledger.rows(sql_text("load", "marks.sql")):
        rows.append(_mark(mark, cpus_on_node))
        per_file[mark["filename"]] = per_file.get(mark["filename"], 0) + 1
    ledger.insert("job_mark", _MARK, rows)
    return per_file


def _mark(mark: Row, cpus_on_node: CpusOnNode) -> tuple[Any, ...]:
    env: dict[str, str] = mark["env"] or {}
    node_list = env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or ""
    return (
        mark["cluster"],
        mark["node"],
        mark["run"],
        mark["edge"],
        mark["name"] or "",
        mark["boot_id"],
        mark["bt"],
        mark["t"],
        mark["job"],  # null for a mark of the job's own program: run_key says whose
        mark["sluid"],
        mark["uid"],
        env.get("SLURM_JOB_USER"),
        env.get("SLURM_JOB_ACCOUNT"),
        env.get("SLURM_JOB_PARTITION"),
        env.get("ECO2AI_HPC_NAME"),
        cpus_on_node(node_list, env.get("SLURM_JOB_CPUS_PER_NODE", ""), mark["node"]),
        ",".join(mark["gpus"] or []) or None,
        json.dumps(env, sort_keys=True) if env else None,
        mark["why"],
        mark["sampler_run"],
        mark["seq"],
        mark["line"],
    )


def _unreadable(ledger: Ledger, segments: Sequence[Segment]) -> list[Problem]:
    """What DuckDB could not make sense of, and digests that do not hold."""
    problems = []
    for segment in segments:
        if not segment.intact:
            found = f"{segment.lines} lines, sha256 {segment.sha256}"
            expected = f"{segment.seal.lines} lines, sha256 {segment.seal.sha256} (trailer)"
            problems.append(Problem(segment.path, None, expected, found))
    for row in ledger.rows(sql_text("load", "unreadable.sql")):
        problems.append(
            Problem(row["filename"], row["line"], row["expected"], _line_text(row["filename"], row["line"]))
        )
    return problems


def _line_text(path: str, number: int) -> str:
    with open(path, "rb") as file:
        for place, line in enumerate(file, start=1):
            if place == number:
                return line[:200].decode("utf-8", "backslashreplace").rstrip("\n")
    return ""


def _timestamp(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None) if text else None
    except ValueError:
        return None


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
