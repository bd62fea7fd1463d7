"""The sampler's side of the spool: opens, rotates and seals segments, and degrades in a stated order when it cannot.

    edge | tick -> Backlog (memory, bounded) -> Worker (a thread) -> Series (the disk)

Nothing here raises for a disk that is full, read-only or gone, nor waits for one that hangs. What cannot be written
waits: job edges whole, ticks whole up to a bound and then only those without which energy would be lost (backlog.py).
When there is room again edges are written first, then the ticks, then a `gap` line that says since when and why.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from eco2ai_hpc import spool
from eco2ai_hpc.sampler.backlog import WAITING_BYTES, Backlog, Entry, entry
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.sampler.worker import PATIENCE_S, Worker
from eco2ai_hpc.units import NS_PER_S

SURVEY_NS = 3600 * NS_PER_S
CLOSING_PATIENCE_S = 5.0
_NOT_KEPT = ("gap", "self")

# How full the spool may be by its own bound, in 16ths, before it writes less.
LEAN, THINNED, EDGES_ONLY, FULL = 1, 2, 3, 4
_SIXTEENTHS = {LEAN: 8, THINNED: 12, EDGES_ONLY: 15, FULL: 16}
_TOLD = {
    LEAN: "spool is half full by its bound: zones that do not count are left out",
    THINNED: "spool is three quarters full by its bound: ticks are thinned",
}


class Keeping(NamedTuple):
    """How evidence is kept on the node."""

    max_bytes: int | None = None
    """Bound of the node's directory; None: spool.default_bound_bytes."""
    keep_s: float = spool.ONE_DAY_S
    """Confirmed segments stay so long."""
    owner: tuple[int, int] | None = None
    """uid and gid that own the spool; None: whoever we are."""
    patience_s: float = PATIENCE_S


AS_USUAL = Keeping()


class Evidence:
    """One sampler run's evidence. When a call returns its line is in the file, unless the disk fails or is slow."""

    def __init__(self, directory: str, header: dict[str, Any], keeping: Keeping = AS_USUAL) -> None:
        self._series = _Series(directory, keeping)
        self._worker = Worker(keeping.owner, keeping.patience_s)
        self._backlog = Backlog()
        self._batch: deque[Entry] = deque()
        self._tells_hole = False
        self._hole: tuple[str, int] | None = None
        self._told_stage = 0
        self.describe(header)

    @property
    def lines(self) -> int:
        """Lines of the open segment, header included."""
        return self._series.lines

    @property
    def opened_ns(self) -> int:
        return self._series.opened_ns

    @property
    def last_error(self) -> str:
        """What went wrong since the last seal, for a person; empty: nothing."""
        return self._series.last_error

    def describe(self, header: dict[str, Any]) -> None:
        """Use this header from the next line on, in a segment of its own."""
        self._header = header
        self._backlog.expect(header["zones"])

    def prepare(self) -> None:
        """Raise PermissionError where we may not act as the spool's owner: better told at the start than never."""
        self._worker.do(lambda: None)

    def recover(self) -> list[str]:
        """Seal what an earlier sampler left open; what cannot be sealed is tried again after each seal of our own."""
        sealed: list[str] = []
        self._worker.do(lambda: sealed.extend(self._series.recover()))
        return sealed

    def edge(self, line: dict[str, Any], now: Moment) -> None:
        """Write a job's start, end or mark; it waits where there is no room."""
        self._backlog.add(entry(line, self._header))
        self._write(now)

    def tick(self, line: dict[str, Any], now: Moment) -> None:
        """Write a reading; where there is no room it waits, as long as it is needed."""
        self._backlog.add(entry(self._lean(line) if self._series.stage >= LEAN else line, self._header))
        self._write(now, last=line.get("why") == "stop")

    def note(self, line: dict[str, Any], now: Moment) -> None:
        """Write something that nobody's figures need; dropped where there is no room."""
        self._write(now, notes=(entry(line, self._header),))

    def seal(self) -> None:
        """Close the open segment, if any; on failure it stays open and is tried again."""
        self._worker.do(self._series.seal)

    def flush(self) -> None:
        self._worker.do(self._series.flush)

    def close(self, now: Moment) -> None:
        """Write what waits and seal, for the last time; gives up on a disk that does not answer within seconds."""
        if self._worker.wait(CLOSING_PATIENCE_S):
            self._write(now, last=True)
        if self._worker.wait(CLOSING_PATIENCE_S):
            self._worker.do(self._series.seal)
            self._worker.wait(CLOSING_PATIENCE_S)
        self._worker.end()

    def _lean(self, line: dict[str, Any]) -> dict[str, Any]:
        """Without the zones that do not count."""
        used = {key for key, zone in self._header["zones"].items() if zone["used"]}
        parts = [part for part in ("c", "err") if part in line]
        return line | {part: {key: value for key, value in line[part].items() if key in used} for part in parts}

    def _write(self, now: Moment, *, last: bool = False, notes: tuple[Entry, ...] = ()) -> None:
        if not self._worker.is_idle():
            if self._backlog.thinned_since_ns is not None:
                self._hole = self._hole or ("writing took too long", self._backlog.thinned_since_ns)
            return
        self._settle()
        self._batch = self._backlog.take(thinned=self._series.stage >= THINNED and not last)
        self._batch.extend((*self._gaps(now), *notes))
        if self._batch and self._worker.do(partial(self._series.write, self._batch, now)):
            self._settle()

    def _gaps(self, now: Moment) -> list[Entry]:
        self._tells_hole = self._hole is not None
        told = [self._hole] if self._hole else []
        stage, before = self._series.stage, self._told_stage
        self._told_stage = stage
        if stage > before and stage in _TOLD:
            told.append((_TOLD[stage], now.boot_ns))
        return [
            entry({"k": "gap", "t": now.utc(), "bt": now.boot_ns, "reason": reason, "since_bt": since}, self._header)
            for reason, since in told
        ]

    def _settle(self) -> None:
        """Take back what the worker, now idle, could not write."""
        left, self._batch = [one for one in self._batch if one.kind not in _NOT_KEPT], deque()
        if left:
            self._hole = self._hole or (self._series.reason, left[0].boot_ns)
            self._backlog.put_back(left)
        elif self._tells_hole:
            self._hole = None
        self._tells_hole = False


class _Series:
    """The segments on the disk, one after another. Used by one thread at a time; never raises OSError."""

    def __init__(self, directory: str, keeping: Keeping) -> None:
        self._directory = directory
        self._keeping = keeping
        self._writer: spool.SegmentWriter | None = None
        self._header: object = None
        self._written: deque[Entry] = deque()
        self._written_bytes = 0
        self._again: list[Entry] = []
        self._seq = 0
        self._previous: str | None = None
        self._is_recovered = True
        self._bound_bytes = 0
        self._used_bytes = 0
        self._surveyed_ns: int | None = None
        self.opened_ns = 0
        self.stage = 0
        self.last_error = ""
        self.reason = ""

    @property
    def lines(self) -> int:
        writer = self._writer
        return writer.lines if writer else 0

    def write(self, batch: deque[Entry], now: Moment) -> None:
        """Write until something does not fit; what was written leaves the batch."""
        try:
            if self._surveyed_ns is None or now.boot_ns - self._surveyed_ns >= SURVEY_NS:
                self._survey(now)
            while self._again or batch:
                self._write_again(batch)
                self._append(batch, now)
        except OSError as error:
            self._failed(error, error.filename or self._directory)
            self._write_again(batch)

    def _write_again(self, batch: deque[Entry]) -> None:
        batch.extendleft(reversed(self._again))
        self._again = []

    def _append(self, batch: deque[Entry], now: Moment) -> None:
        """Write the first of the batch, or find that earlier ones come first."""
        line = batch[0]
        self._refuse_beyond_the_bound(line)
        if self._writer is not None and not self._writer.is_in_place():
            self.last_error = f"{self._writer.final_path}.part was removed: its lines are written again"
            self._give_up()
            return
        self._open(line.header, now).append_encoded(line.data)
        batch.popleft()
        self._remember(line)
        self._count(len(line.data))

    def _refuse_beyond_the_bound(self, line: Entry) -> None:
        if self.stage >= (EDGES_ONLY if line.kind == "tick" else FULL):
            raise OSError(0, f"the spool's own bound of {self._bound_bytes >> 20} MiB is reached", self._directory)

    def _open(self, header: Any, now: Moment) -> spool.SegmentWriter:
        if self._writer is not None and header is not self._header:
            self._seal()
        if self._writer is None:
            whole = header | {"seq": self._seq, "t": now.utc(), "bt": now.boot_ns, "prev": self._previous}
            self._writer = self._new_writer(whole)
            self._seq += 1
            self._header = header
            self.opened_ns = now.boot_ns
            self._count(len(spool.encode(whole)))
        return self._writer

    def _new_writer(self, header: dict[str, Any]) -> spool.SegmentWriter:
        try:
            return spool.SegmentWriter(self._directory, header)
        except FileExistsError:
            self._seq += 1  # a header that failed and could not be removed, or a spool that came back
            raise

    def _remember(self, line: Entry) -> None:
        """Until a segment is sealed its lines are here too; beyond the bound the oldest are on the disk only."""
        self._written.append(line)
        self._written_bytes += line.size
        while self._written_bytes > WAITING_BYTES:
            self._written_bytes -= self._written.popleft().size

    def _give_up(self) -> None:
        """Leave the open segment as an orphan: its lines are written again into the next one, none are lost."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._again = [line for line in self._written if line.kind not in _NOT_KEPT]
        self._forget_written()
        self._is_recovered = False

    def _forget_written(self) -> None:
        self._written.clear()
        self._written_bytes = 0

    def _failed(self, error: OSError, where: str) -> None:
        self.reason = error.strerror or "write failed"
        self.last_error = f"{self.reason}: {where}"
        if self._writer is not None and self._writer.is_doubtful:
            self._give_up()

    def seal(self) -> None:
        """Close the open segment, if any, and see to those that others left."""
        if self._attempt(self._seal, "cannot seal below") and not self._is_recovered:
            self.recover()

    def _seal(self) -> None:
        if self._writer is None:
            return
        if not self._writer.is_in_place():
            self._give_up()
            return
        self._previous = "sha256:" + self._writer.seal()
        self._writer = None
        self._forget_written()
        self.last_error = ""

    def flush(self) -> None:
        if self._writer is not None:
            self._attempt(self._writer.flush, "cannot flush below")

    def _attempt(self, action: Callable[[], None], what: str) -> bool:
        try:
            action()
        except OSError as error:
            self._failed(error, f"{what} {self._directory}")
            return False
        return True

    def recover(self) -> list[str]:
        try:
            done = spool.recover(self._directory)
        except OSError as error:
            done = spool.Recovery([], [str(error)])
        self._is_recovered = not done.failed
        if done.failed:
            self.last_error = done.failed[0]
        return done.sealed

    def _survey(self, now: Moment) -> None:
        """Prune what is confirmed, and see how much of the bound is taken."""
        self._bound_bytes = self._keeping.max_bytes or spool.default_bound_bytes(self._directory)
        done = spool.prune(self._directory, now.wall_ns / NS_PER_S, self._keeping.keep_s)
        if done.failed:
            self.last_error = done.failed[0]
        self._surveyed_ns = now.boot_ns
        self._used_bytes = done.used_bytes
        self._count(0)

    def _count(self, written_bytes: int) -> None:
        self._used_bytes += written_bytes
        sixteenths = self._used_bytes * 16 // self._bound_bytes
        self.stage = max((stage for stage, limit in _SIXTEENTHS.items() if sixteenths >= limit), default=0)
