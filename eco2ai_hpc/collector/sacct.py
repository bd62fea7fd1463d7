"""Job records out of what `sacct -P` printed: one SlurmJob a record, one Problem for what cannot be used.

Users choose job names, comments and paths, and sacct prints them raw: a delimiter or a newline in them breaks the
lines. With a delimiter of several characters, which nobody can guess, all of them come back byte-exact. With a plain
`|` a hostile name is read only if free text stands in the last column alone; a name that imitates a whole record
cannot be told from one there, so a site that does not trust its users asks sacct for a random delimiter.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from eco2ai_hpc.errors import BadInputError
from eco2ai_hpc.model import Problem, SlurmJob
from eco2ai_hpc.units import BYTES_PER_KIB

FIELDS = (
    "Cluster", "DBIndex", "SLUID", "OriginalSLUID", "JobID", "JobIDRaw", "User", "UID", "Account", "Partition", "QOS",
    "State", "ExitCode", "Submit", "Start", "End", "Suspended", "TimelimitRaw", "NNodes", "NodeList", "NCPUS",
    "AllocTRES", "ConsumedEnergyRaw", "JobName", "AssocID",
)  # fmt: skip
"""What we ask sacct for, so far as it knows them. First and last are safe: a record then ends only between the two."""

NEEDED = ("User", "Account", "State", "Start", "End", "NodeList")
"""Columns without which a record is of no use; JobIDRaw or JobID besides."""

FREE_TEXT = frozenset(
    {
        "jobname", "comment", "admincomment", "systemcomment", "extra", "workdir", "submitline", "container", "wckey",
        "stdin", "stdout", "stderr", "stdinexpanded", "stdoutexpanded", "stderrexpanded", "constraints", "licenses",
    }
)  # fmt: skip
"""Columns that hold what a user typed (`-C "a|b"` is a constraint)."""

KNOWN = FREE_TEXT | {name.lower() for name in (*FIELDS, "Timelimit", "AllocCPUS", "AllocNodes", "Eligible", "ReqTRES")}

HINT = (
    "TZ=UTC SLURM_TIME_FORMAT=%s sacct -a -X -D -P --noconvert --delimiter=@$RANDOM$RANDOM@ -S 2026-01-01 -E now -o "
    + ",".join(name for name in FIELDS if name not in {"SLUID", "OriginalSLUID"})
    + " > jobs.txt   (Slurm 24.11 and later: add SLUID)"
)

NOT_SET = frozenset({18446744073709551614, 18446744073709551615, 4294967294, 4294967295})
"""NO_VAL and INFINITE of 32 and 64 bits: Slurm's way to say nothing."""

MAX_BIGINT = 2**63 - 1
MAX_RECORD_CHARS = 4 * 1024 * 1024
MAX_DELIMITER_CHARS = 64
EXCERPT_CHARS = 80

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_ROW_ID = re.compile(r"[0-9]+(?:_\S+|\+[0-9]+)?(?:\.\S+)?")
_STATE = re.compile(r"[A-Z_]+(?: by \S+)?")
_LABEL = re.compile(r"(?P<head>[0-9]{1,18})(?:_(?P<task>[0-9]{1,18})|_\S+|\+(?P<offset>[0-9]{1,18}))?")
_NUMBER = re.compile(r"[0-9]{1,20}")
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:Z|[+-][0-9]{2}:?[0-9]{2})?")
_DURATION = re.compile(r"(?:(?:([0-9]{1,9})-)?([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{1,9})(?:\.[0-9]+)?")
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)([KMGTPE]?)")
_BINARY_POWER = {"K": 1, "": 2, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}  # a bare number of memory is MiB in Slurm


class _Layout(NamedTuple):
    """What the header line says about the lines below it."""

    source: str
    header: str
    delimiter: str
    names: tuple[str, ...]
    """Lower case; the last is empty where sacct ends its lines with the delimiter (`-p`)."""


class _Record(NamedTuple):
    line: int
    values: list[str]


class _UnusableError(Exception):
    """A value without which the record means nothing."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found


def read_sacct_file(path: Path, *, default_cluster: str, time_zone: str) -> Iterator[SlurmJob | Problem]:
    r"""Yield the records of a file in the order in which it holds them; see read_sacct_text.

    Bytes that are not UTF-8 come back as `\xff`. Raises BadInputError, at the first record asked for, when the file
    cannot be read or its header cannot be used.
    """
    try:
        # newline="\n": a carriage return may stand in a job name and must not become a newline.
        with open(path, encoding="utf-8-sig", errors="backslashreplace", newline="\n") as stream:
            yield from read_sacct_text(stream, source=str(path), default_cluster=default_cluster, time_zone=time_zone)
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}", hint="name a file that sacct wrote") from error


def read_sacct_text(
    lines: Iterable[str], *, source: str, default_cluster: str, time_zone: str
) -> Iterator[SlurmJob | Problem]:
    r"""Yield the job records of sacct's `-P` output, and a Problem for each that cannot be used.

    Holds one record at a time. Lines end with `\n` only: open files with newline="\\n" (read_sacct_file does). The
    delimiter comes from the header; fields go by their names, in any order and case. Rows of steps are left out.
    A number that cannot be read is None and a Problem beside the job; a job id, state or time that cannot be read is
    a Problem in place of the job. What never had nodes has no nodes, cpus, memory or gpus either: Slurm prints the
    request there.

    Times: epoch seconds, or local time of the IANA time_zone; the hour that autumn repeats is read as its first pass.
    db_index: DBIndex; without that column `JobIDRaw@Submit`, or `JobIDRaw@start:Start` where Submit is missing too.
    Submit differs between the runs of a requeued or resized job, Start of a resized one did not before Slurm 24.11.
    sluid: OriginalSLUID (what the hooks saw) before SLUID. Raises BadInputError at once for an unusable header.
    """
    numbered: Iterator[tuple[int, str]] = enumerate((line.removesuffix("\n") for line in lines), start=1)
    _, header = next(numbered, (0, None))
    layout = _read_header(header, source)
    if header is not None and header.endswith("\r"):  # a file that went through Windows
        numbered = ((number, text.removesuffix("\r")) for number, text in numbered)
    reader = _Reader(layout, default_cluster, _zone(time_zone))
    return reader.read(numbered)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise BadInputError(f"time zone {name!r} is not known here", hint="use an IANA name: Europe/Paris") from error


def _read_header(header: str | None, source: str) -> _Layout:
    if header is None:
        raise BadInputError(f"{source} is empty; expected sacct's -P output with a header line", hint=HINT)
    header = header.removeprefix("\ufeff").removesuffix("\r")
    delimiter, names = _split_header(header)
    known = {name.lower() for name in names}
    if not known & KNOWN:
        raise BadInputError(
            f"{source}, line 1: expected a header line of sacct -P, found {_excerpt(header)}", hint=HINT
        )
    missing = [name for name in NEEDED if name.lower() not in known]
    if not known & {"jobidraw", "jobid"}:
        missing.insert(0, "JobIDRaw")
    if missing:
        raise BadInputError(f"{source}, line 1: the header lacks {', '.join(missing)}", hint=HINT)
    return _Layout(source, header, delimiter, tuple(name.lower() for name in names))


def _split_header(header: str) -> tuple[str, list[str]]:
    """The delimiter and the names between; of several that fit the one that leaves most names of sacct's.

    `@beef@` could also be read as `@` between more columns, hence: then the one with fewest columns.
    """
    first = _NAME.match(header)
    if first is None:
        return "", []
    rest = header[first.end() :]
    best: tuple[int, int, str, list[str]] = (0, 0, "", [header])
    for length in range(1, min(len(rest), MAX_DELIMITER_CHARS) + 1):
        names = header.split(rest[:length])
        if all(_NAME.fullmatch(name) for name in names[:-1]) and (_NAME.fullmatch(names[-1]) or not names[-1]):
            known = sum(name.lower() in KNOWN for name in names)
            best = max(best, (known, -len(names), rest[:length], names))
    return best[2], best[3]


class _Reader:
    """Turns the lines below one header into jobs."""

    def __init__(self, layout: _Layout, default_cluster: str, zone: ZoneInfo) -> None:
        self.layout = layout
        self.default_cluster = default_cluster
        self.zone = zone

    def read(self, numbered: Iterable[tuple[int, str]]) -> Iterator[SlurmJob | Problem]:
        gather = _Exact(self.layout) if len(self.layout.delimiter) > 1 else _Plain(self.layout)
        for number, text in numbered:
            for item in gather.feed(number, text):
                yield from self._convert(item)
        for item in gather.close():
            yield from self._convert(item)

    def _convert(self, item: _Record | Problem) -> Iterator[SlurmJob | Problem]:
        if isinstance(item, Problem):
            yield item
            return
        row = _Row(dict(zip(self.layout.names, item.values, strict=True)), self.zone)
        if "." in (row.text("jobidraw") or row.text("jobid") or ""):
            return  # a step
        try:
            job = _job(row, self.default_cluster, self.layout.source, item.line)
        except _UnusableError as error:
            yield Problem(self.layout.source, item.line, error.expected, error.found)
            return
        for expected, found in row.doubts:
            yield Problem(self.layout.source, item.line, expected, found)
        yield job


# --- lines to records


class _Held:
    """A record whose end has not been seen."""

    def __init__(self, line: int, text: str, seams: int) -> None:
        self.line = line
        self.lines = [text]
        self.seams = seams
        self.chars = len(text)

    def add(self, text: str, seams: int) -> None:
        self.lines.append(text)
        self.seams += seams
        self.chars += len(text)


class _Exact:
    """Records between delimiters that stand in no value: complete when the count is.

    A newline belongs to the field that it stands in; between records it can only be told apart where the last or the
    first column is no free text. Where both are, lines without a delimiter go to the last.
    """

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.seams = len(layout.names) - 1
        self.free = [name in FREE_TEXT for name in layout.names]
        self.held: _Held | None = None

    def feed(self, number: int, text: str) -> Iterator[_Record | Problem]:
        found = text.count(self.layout.delimiter)
        if self.held and self.held.chars > MAX_RECORD_CHARS:
            yield from self.close()
        if self.held and self.held.seams == self.seams and found == 0:
            self.held.add(text, 0)
            return
        if self.held and self.held.seams + found > self.seams:
            yield from self.close()
        if self.held:
            self.held.add(text, found)
        elif text != self.layout.header and (text or self.free[0]):
            self.held = _Held(number, text, found)
        if self.held and (self.held.seams > self.seams or (self.held.seams == self.seams and not self.free[-1])):
            yield from self.close()

    def close(self) -> Iterator[_Record | Problem]:
        held, self.held = self.held, None
        if held is None or not any(held.lines):
            return
        values = "\n".join(held.lines).split(self.layout.delimiter)
        if len(values) == len(self.free) and not self._torn(values):
            yield _Record(held.line, values)
        elif len(held.lines) > 1 and held.lines[-1].count(self.layout.delimiter) == self.seams:
            # What came before was cut off: a killed sacct, then another file behind it.
            yield self._problem(held.line, held.lines[:-1])
            yield _Record(held.line + len(held.lines) - 1, held.lines[-1].split(self.layout.delimiter))
        else:
            yield self._problem(held.line, held.lines)

    def _torn(self, values: list[str]) -> bool:
        return any("\n" in value and not free for value, free in zip(values, self.free, strict=True))

    def _problem(self, line: int, lines: list[str]) -> Problem:
        fields = sum(text.count(self.layout.delimiter) for text in lines) + 1
        expected = f"a record of {self.seams + 1} fields with newlines in free text only"
        return Problem(self.layout.source, line, expected, _found(len(lines), fields, lines[0]))


class _Plain:
    """Records between single characters, which a name may hold too.

    A line that is a whole record counts, also where the lines before it are lost to a name: its name may be cut then.
    """

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.seams = len(layout.names) - 1
        self.id_place = _place(layout.names, "jobidraw", "jobid")
        self.state_place = _place(layout.names, "state")
        free = [name for name in layout.names if name in FREE_TEXT]
        self.free_tail = free == [layout.names[-1]]
        self.held: _Held | None = None
        self.lost: _Held | None = None

    def feed(self, number: int, text: str) -> Iterator[_Record | Problem]:
        if text == self.layout.header:
            return
        if self._begins(text):
            yield from self.close()
            self.held = _Held(number, text, self.seams)
            if not self.free_tail:
                yield from self.close()
        elif self.held and self.held.chars <= MAX_RECORD_CHARS:
            self.held.add(text, 0)
        elif self.lost:
            self.lost.seams += 1
        elif text:
            yield from self.close()
            self.lost = _Held(number, text, 1)

    def close(self) -> Iterator[_Record | Problem]:
        held, lost, self.held, self.lost = self.held, self.lost, None, None
        if lost:
            expected = (
                f"a record of {self.seams + 1} fields between {self.layout.delimiter!r}, free text in the last column "
                "only (or a random delimiter: sacct --delimiter=@$RANDOM$RANDOM@)"
            )
            fields = lost.lines[0].count(self.layout.delimiter) + 1
            yield Problem(self.layout.source, lost.line, expected, _found(lost.seams, fields, lost.lines[0]))
        if held:
            yield _Record(held.line, "\n".join(held.lines).split(self.layout.delimiter, self.seams))

    def _begins(self, text: str) -> bool:
        """Whether a record starts here: enough fields, and an id and a state where they belong."""
        values = text.split(self.layout.delimiter, self.seams if self.free_tail else -1)
        return (
            len(values) == self.seams + 1
            and _ROW_ID.fullmatch(values[self.id_place]) is not None
            and _STATE.fullmatch(values[self.state_place]) is not None
        )


def _place(names: tuple[str, ...], *wanted: str) -> int:
    return next(names.index(name) for name in wanted if name in names)


def _found(lines: int, fields: int, text: str) -> str:
    return f"{fields} field{'s' * (fields != 1)} in {lines} line{'s' * (lines != 1)}: {_excerpt(text)}"


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= EXCERPT_CHARS else text[:EXCERPT_CHARS] + "…")


# --- records to jobs


class _Row:
    """One record's values by column; what was read badly is kept in doubts."""

    def __init__(self, values: dict[str, str], zone: ZoneInfo) -> None:
        self.values = values
        self.zone = zone
        self.doubts: list[tuple[str, str]] = []

    def text(self, name: str) -> str | None:
        return self.values.get(name) or None

    def doubt(self, name: str, expected: str, text: str) -> None:
        self.doubts.append((f"{name}: {expected}", _excerpt(text)))

    def number(self, *names: str) -> int | None:
        """The first of the columns that is there, as a whole number."""
        name = next((name for name in names if name in self.values), names[0])
        return self.checked_number(name, self.values.get(name, ""))

    def checked_number(self, name: str, text: str) -> int | None:
        if not text:
            return None
        number = int(text) if _NUMBER.fullmatch(text) else None
        if number in NOT_SET:
            return None
        if number is None or number > MAX_BIGINT:
            self.doubt(name, "a whole number below 2^63", text)
            return None
        return number

    def duration_s(self, name: str) -> int | None:
        text = self.values.get(name, "")
        if text in {"", "Partition_Limit", "UNLIMITED", "INVALID"}:
            return None
        match = _DURATION.fullmatch(text)
        if match is None:
            self.doubt(name, "[days-]hours:minutes:seconds", text)
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def timelimit_s(self) -> int | None:
        if "timelimitraw" not in self.values:
            return self.duration_s("timelimit")
        if not self.values["timelimitraw"].isdigit():  # Partition_Limit, UNLIMITED
            return None
        minutes = self.number("timelimitraw")
        return None if minutes is None else minutes * 60

    def time_s(self, name: str) -> int | None:
        """Epoch seconds; None where Slurm says Unknown (not yet) or None (never)."""
        text = self.values.get(name, "")
        if text in {"", "Unknown", "None", "0"}:
            return None
        if text.isascii() and text.isdigit() and 9 <= len(text) <= 11:
            return int(text)
        if not _ISO.fullmatch(text):
            raise _UnusableError(f"{name}: epoch seconds or 2026-11-23T02:03:49", _excerpt(text))
        try:
            moment = datetime.fromisoformat(text)
            return int((moment if moment.tzinfo else moment.replace(tzinfo=self.zone)).timestamp())
        except (ValueError, OverflowError) as error:
            raise _UnusableError(f"{name}: a time that exists", _excerpt(text)) from error


def _job(row: _Row, default_cluster: str, source: str, line: int) -> SlurmJob:
    job_id = _job_id(row)
    label = row.text("jobid") or str(job_id)
    array_job_id, array_task_id, het_job_id, het_offset = _label_parts(label)
    submitted_at_s, started_at_s = row.time_s("submit"), row.time_s("start")
    node_list = row.text("nodelist")
    if node_list in {"None assigned", "None", "(null)"}:
        node_list = None
    alloc_tres = row.text("alloctres")
    tres = _tres(alloc_tres or "")
    return SlurmJob(
        cluster=row.text("cluster") or default_cluster,
        db_index=_db_index(row, job_id, submitted_at_s, started_at_s),
        job_id=job_id,
        sluid=row.text("originalsluid") or row.text("sluid"),
        job_label=label,
        array_job_id=array_job_id,
        array_task_id=array_task_id,
        het_job_id=het_job_id,
        het_offset=het_offset,
        user=row.text("user"),
        uid=row.number("uid"),
        account=row.text("account"),
        partition=row.text("partition"),
        qos=row.text("qos"),
        name=row.text("jobname"),
        state=_state(row),
        exit_code=row.text("exitcode"),
        submitted_at_s=submitted_at_s,
        started_at_s=started_at_s,
        ended_at_s=row.time_s("end"),
        suspended_s=row.duration_s("suspended"),
        timelimit_s=row.timelimit_s(),
        node_list=node_list,
        nodes=row.number("nnodes", "allocnodes") if node_list else None,
        cpus=row.number("ncpus", "alloccpus") if node_list else None,
        memory_bytes=_memory_bytes(row, tres),
        gpus=_gpus(row, tres),
        alloc_tres=alloc_tres,
        consumed_energy_raw_j=row.number("consumedenergyraw"),
        source=source,
        line=line,
    )


def _job_id(row: _Row) -> int:
    """The raw id. JobID alone is the raw id only of a job that is no array task and no part of a het job."""
    name = "jobidraw" if "jobidraw" in row.values else "jobid"
    text = row.values[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        wanted = "a job's number" if name == "jobidraw" else "a column JobIDRaw to tell this job's own number"
        raise _UnusableError(f"{name}: {wanted}", _excerpt(text))
    return int(text)


def _label_parts(label: str) -> tuple[int | None, int | None, int | None, int | None]:
    """Array job, array task, het job, het offset of `9_3`, `10+1` or `24_[5-6]` (tasks that never ran: no task)."""
    match = _LABEL.fullmatch(label)
    if match is None:
        return None, None, None, None
    head, task, offset = match["head"], match["task"], match["offset"]
    if offset is not None:
        return None, None, int(head), int(offset)
    if "_" in label:
        return int(head), None if task is None else int(task), None, None
    return None, None, None, None


def _state(row: _Row) -> str:
    words = row.values["state"].split()
    if not words:
        raise _UnusableError("state: a word", "''")
    return words[0]


def _db_index(row: _Row, job_id: int, submitted_at_s: int | None, started_at_s: int | None) -> str:
    index = row.text("dbindex")
    if index and index != "0":
        return index
    if submitted_at_s is not None:
        return f"{job_id}@{submitted_at_s}"
    return f"{job_id}@start:{'' if started_at_s is None else started_at_s}"


def _tres(text: str) -> dict[str, str]:
    """`cpu=1,gres/gpu:a100=2` by name; the value stands after the last `=`."""
    parts = (part.rpartition("=") for part in text.split(",") if part)
    return {name: value for name, _, value in parts}


def _memory_bytes(row: _Row, tres: dict[str, str]) -> int | None:
    """Allocated memory; None for `mem=0`, which Slurm prints where memory is not tracked."""
    text = tres.get("mem", "")
    match = _SIZE.fullmatch(text)
    if match is None:
        if text:
            row.doubt("alloctres mem", "a size, 200M", text)
        return None
    digits, unit = match.groups()
    size = int((Decimal(digits) * BYTES_PER_KIB ** _BINARY_POWER[unit]).to_integral_value())
    if digits.isdigit() and int(digits) in NOT_SET:
        return None
    if size > MAX_BIGINT:
        row.doubt("alloctres mem", "a size below 2^63 bytes", text)
        return None
    return size or None


def _gpus(row: _Row, tres: dict[str, str]) -> int | None:
    """Allocated GPUs. `gres/gpu` counts all of them, its typed entries only repeat it; None: Slurm does not say."""
    if "gres/gpu" in tres:
        return row.checked_number("alloctres gres/gpu", tres["gres/gpu"])
    counts = [row.checked_number(f"alloctres {name}", tres[name]) for name in tres if name.startswith("gres/gpu:")]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
