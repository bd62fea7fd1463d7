"""CPU time and memory of a local job, where no cgroup of its own exists: all processes of its session.

A job of local mode is one `setsid` session. CPU time is utime + stime + that of waited-for children, from
/proc/PID/stat (10 ms grain). The figure never falls: a process that ends unwaited leaves its last value behind.
"""

import os

_US_PER_JIFFY = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SESSION, _UTIME, _CSTIME, _RSS = 3, 11, 14, 21


class Session:
    """The processes of one session id; offers what JobCgroup offers."""

    def __init__(self, procfs: str, session_id: int) -> None:
        self._procfs = procfs
        self._session_id = session_id
        self._highest_us = 0
        self._rss: int | None = None

    def identity(self) -> int | None:
        return self._session_id

    def parent(self) -> None:
        """No cgroup above it keeps what it used."""

    def counts_cpu(self) -> bool:
        return True

    def is_lasting(self) -> bool:
        return False  # who launched it says when it ends

    def is_empty(self) -> bool:
        return False

    def cpu_us(self) -> int | None:
        total, rss, seen = 0, 0, False
        for pid in filter(str.isdigit, os.listdir(self._procfs)):
            fields = self._stat(pid)
            if fields is None or int(fields[_SESSION]) != self._session_id:
                continue
            seen = True
            total += sum(map(int, fields[_UTIME : _CSTIME + 1])) * _US_PER_JIFFY
            rss += int(fields[_RSS]) * _PAGE
        if not seen:
            return None
        self._rss = rss
        self._highest_us = max(self._highest_us, total)
        return self._highest_us

    def _stat(self, pid: str) -> list[str] | None:
        """The fields of /proc/PID/stat after the name, which may hold blanks and brackets."""
        try:
            with open(os.path.join(self._procfs, pid, "stat"), encoding="utf-8", errors="replace") as file:
                return file.read().rpartition(")")[2].split()
        except OSError:
            return None

    def memory_bytes(self) -> int | None:
        return self._rss

    def memory_limit_bytes(self) -> int | None:
        return None

    def cpuset(self) -> str | None:
        return None

    def close(self) -> None:
        pass
