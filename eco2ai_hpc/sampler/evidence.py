"""The sampler's side of the spool: opens, rotates and seals segments, and degrades in a stated order when it cannot.

Nothing here raises for a disk that is full, read-only or gone. Job edges wait in memory for a line that fits; a tick
that does not fit is dropped, because the next one carries the same counters further and only its time resolution is
lost; the hole is written down as a `gap` line once there is room again.
"""

from collections import deque
from typing import Any

from eco2ai_hpc import spool
from eco2ai_hpc.sampler.host import Moment

_WAITING_EDGES = 10_000


class Evidence:
    """One sampler run's series of segments."""

    def __init__(self, directory: str, header: dict[str, Any]) -> None:
        self._directory = directory
        self._header = header
        self._writer: spool.SegmentWriter | None = None
        self._seq = 0
        self._previous: str | None = None
        self._edges: deque[dict[str, Any]] = deque(maxlen=_WAITING_EDGES)
        self._hole: tuple[str, int] | None = None
        self._is_recovered = True
        self.opened_ns = 0
        self.last_error = ""

    @property
    def lines(self) -> int:
        """Lines of the open segment, header included."""
        return self._writer.lines if self._writer else 0

    def recover(self) -> list[str]:
        """Seal what an earlier sampler left open; what cannot be sealed is tried again after each seal of our own."""
        try:
            done = spool.recover(self._directory)
        except OSError as error:
            done = spool.Recovery([], [str(error)])
        self._is_recovered = not done.failed
        if done.failed:
            self.last_error = done.failed[0]
        return done.sealed

    def edge(self, line: dict[str, Any], now: Moment) -> None:
        """Write a job's start, end or mark; it waits where there is no room."""
        self._edges.append(line)
        self._write_waiting(now)

    def tick(self, line: dict[str, Any], now: Moment) -> None:
        """Write a reading; dropped where there is no room."""
        if self._write_waiting(now):
            self._try(line, now)

    def _write_waiting(self, now: Moment) -> bool:
        while self._edges:
            if not self._try(self._edges[0], now):
                return False
            self._edges.popleft()
        if self._hole:
            reason, since_ns = self._hole
            gap = {"k": "gap", "t": now.utc(), "bt": now.boot_ns, "reason": reason, "since_bt": since_ns}
            if not self._try(gap, now):
                return False
            self._hole = None
        return True

    def _try(self, line: dict[str, Any], now: Moment) -> bool:
        try:
            self._open(now).append(line)
        except OSError as error:
            self.last_error = f"{error.strerror or error}: {error.filename or self._directory}"
            self._hole = self._hole or (error.strerror or "write failed", now.boot_ns)
            return False
        return True

    def _open(self, now: Moment) -> spool.SegmentWriter:
        if self._writer is None:
            header = self._header | {"seq": self._seq, "t": now.utc(), "bt": now.boot_ns, "prev": self._previous}
            self._writer = spool.SegmentWriter(self._directory, header)
            self._seq += 1
            self.opened_ns = now.boot_ns
        return self._writer

    def seal(self) -> None:
        """Close the open segment, if any; on failure it stays open and is tried again."""
        if self._writer is None:
            return
        try:
            self._previous = "sha256:" + self._writer.seal()
            self._writer = None
        except OSError as error:
            self.last_error = f"{error.strerror or error}: cannot seal below {self._directory}"
            return
        if not self._is_recovered:
            self.recover()

    def flush(self) -> None:
        if self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                self.last_error = str(error)
