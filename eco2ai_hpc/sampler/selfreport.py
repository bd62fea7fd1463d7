"""What the sampler itself costs and how well it keeps time: one line a segment, and the answer to `status`."""

import os
import time
from typing import Any

from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.units import NS_PER_S, NS_PER_US

_PAGE = os.sysconf("SC_PAGE_SIZE")
_NS_PER_MS = NS_PER_S // 1000


class SelfReport:
    """Counts since the last line, except cpu_us and rss_bytes: those are the process's, as they are."""

    def __init__(self) -> None:
        self._poll_ns = 0
        self._begin()

    def _begin(self) -> None:
        self.ticks = 0
        self.read_errors = 0
        self._late_ns = 0

    def ticked(self, late_ns: int, errors: int) -> None:
        """A reading was taken so much after it was due; `errors` counters could not be read."""
        self.ticks += 1
        self._late_ns = max(self._late_ns, late_ns)
        self.read_errors += errors

    def figures(self, poll_ns: int) -> dict[str, Any]:
        """poll_ns: spent at looking at jobs, since the process began."""
        return {
            "cpu_us": time.process_time_ns() // NS_PER_US,
            "rss_bytes": _rss_bytes(),
            "ticks": self.ticks,
            "late_ms_max": self._late_ns // _NS_PER_MS,
            "read_errors": self.read_errors,
            "poll_us": (poll_ns - self._poll_ns) // NS_PER_US,
        }

    def line(self, now: Moment, poll_ns: int) -> dict[str, Any]:
        """The segment's `self` line; counts anew from here."""
        line = {"k": "self", "t": now.utc(), "bt": now.boot_ns, **self.figures(poll_ns)}
        self._poll_ns = poll_ns
        self._begin()
        return line


def _rss_bytes() -> int | None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None
