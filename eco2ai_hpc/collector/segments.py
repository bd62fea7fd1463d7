"""Find the sealed segments below the spool directories and bring in those that are not in yet."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eco2ai_hpc import spool
from eco2ai_hpc.collector.nodes import cpus_on_node
from eco2ai_hpc.errors import SpoolError
from eco2ai_hpc.ledger import Ledger, load
from eco2ai_hpc.model import Problem

# One transaction holds one batch: bounds memory, and what a crash makes us read again.
BATCH_FILES = 500
BATCH_BYTES = 256 * 1024 * 1024


class Loaded(NamedTuple):
    """What one pass over the spools did."""

    found: int
    new: int
    refused: int
    bad_lines: int


def load_new(
    ledger: Ledger, directories: Sequence[str], progress: Callable[[str], None], *, confirm: bool = False
) -> Loaded:
    """Load every sealed segment that is not in the ledger; a crash at any instant leaves whole batches.

    `confirm` tells the nodes, after the commit, that what is in this ledger may be pruned.
    """
    known = load.known_digests(ledger)
    found, new, bad_lines = 0, 0, 0
    problems: list[Problem] = []
    batch: list[spool.Segment] = []

    def flush() -> None:
        nonlocal new, bad_lines
        bad, loaded = _load(ledger, batch, problems)
        bad_lines, new = bad_lines + bad, new + loaded
        progress(f"{new} segments loaded")
        batch.clear()

    taken: set[tuple[str, str, str, str, int]] = set()
    for path in _paths(directories):
        found += 1
        segment = _admit(path, known, problems)
        if segment is None or load.segment_key(segment) in taken:
            continue
        taken.add(load.segment_key(segment))
        batch.append(segment)
        if len(batch) >= BATCH_FILES or sum(item.size_bytes for item in batch) >= BATCH_BYTES:
            flush()
    flush()
    if confirm:
        _confirm_all(directories, known)
    load.add_problems(ledger, problems)
    return Loaded(found, new, len(problems), bad_lines)


def _load(ledger: Ledger, batch: Sequence[spool.Segment], problems: list[Problem]) -> tuple[int, int]:
    """Load a batch; where one segment of it cannot be loaded, halve until only that one is left out.

    Returns (lines that could not be read, segments loaded).
    """
    if not batch:
        return 0, 0
    try:
        return load.load_segments(ledger, batch, cpus_on_node), len(batch)
    except SpoolError as error:
        if len(batch) == 1:
            problems.append(Problem(batch[0].path, None, "values that fit the ledger", str(error)))
            return 0, 0
    middle = len(batch) // 2
    parts = (_load(ledger, batch[:middle], problems), _load(ledger, batch[middle:], problems))
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def _confirm_all(directories: Sequence[str], known: dict[tuple[str, str, str, str, int], str]) -> None:
    """Say beside each segment that is in the ledger that it may go; a spool that nobody may write to is left alone."""
    for path in _paths(directories):
        if Path(path + spool.CONFIRMED).exists():
            continue
        with suppress(OSError, SpoolError):
            segment = spool.read_segment(path)
            if known.get(load.segment_key(segment)) == segment.sha256:
                spool.confirm(path, segment.sha256)


def _paths(directories: Sequence[str]) -> Iterator[str]:
    for directory in directories:
        yield from spool.sealed_segments(directory)


def _admit(
    path: str, known: dict[tuple[str, str, str, str, int], str], problems: list[Problem]
) -> spool.Segment | None:
    """The segment if it is to be loaded; None where it is in already, or was refused."""
    try:
        segment = spool.read_segment(path)
    except SpoolError as error:
        problems.append(Problem(path, None, "a whole segment", str(error)))
        return None
    except OSError as error:
        problems.append(Problem(path, None, "a readable file", error.strerror or str(error)))
        return None
    digest = known.get(load.segment_key(segment))
    if digest is None:
        return segment
    if digest != segment.sha256:
        problems.append(Problem(path, None, f"the content loaded before, sha256 {digest}", f"sha256 {segment.sha256}"))
    return None
