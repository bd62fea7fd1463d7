"""What the kernel says about this node: clocks, CPUs, memory, busy time."""

import os
import time
from typing import NamedTuple

from eco2ai_hpc.model import Roots
from eco2ai_hpc.units import BYTES_PER_KIB, NS_PER_S

_US_PER_JIFFY = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Moment(NamedTuple):
    """One instant on both clocks."""

    wall_ns: int
    """CLOCK_REALTIME, may step."""
    boot_ns: int
    """CLOCK_BOOTTIME, runs on through suspend and never steps."""

    @classmethod
    def now(cls) -> "Moment":
        return cls(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def utc(self) -> str:
        """ISO 8601 in UTC with microseconds, as the spool has it."""
        seconds, ns = divmod(self.wall_ns, NS_PER_S)
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns // 1000:06d}Z"


class Description(NamedTuple):
    """The header's facts about the machine."""

    boot_id: str
    cpus: int
    sockets: int
    mem_mib: int | None
    cpu_model: str


class Host:
    """Reads the parts of procfs that describe the whole node."""

    def __init__(self, roots: Roots) -> None:
        self._procfs = roots.procfs
        self._socket_of_cpu = self._read_topology()
        self.description = self._describe()

    def _path(self, *parts: str) -> str:
        return os.path.join(self._procfs, *parts)

    def _describe(self) -> Description:
        with open(self._path("sys", "kernel", "random", "boot_id"), encoding="ascii") as file:
            boot_id = file.read().strip()
        cpus = len(self._socket_of_cpu) or os.cpu_count() or 1
        sockets = max(1, len(set(self._socket_of_cpu.values())))
        total = self._meminfo("MemTotal")
        return Description(boot_id, cpus, sockets, total // (1024 * BYTES_PER_KIB) if total else None, self._model)

    def _read_topology(self) -> dict[int, str]:
        """Logical CPU -> physical package, from cpuinfo; CPUs without one share package 0."""
        self._model = ""
        sockets: dict[int, str] = {}
        cpu = None
        with open(self._path("cpuinfo"), encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                key, value = key.strip(), value.strip()
                if key == "processor" and value.isdigit():
                    cpu = int(value)
                    sockets[cpu] = "0"
                elif key == "physical id" and cpu is not None:
                    sockets[cpu] = value
                elif key in ("model name", "Processor") and not self._model:
                    self._model = value
        return sockets

    def busy_us(self) -> dict[str, int]:
        """Busy microseconds since boot per socket: user, nice, system, irq, softirq (guest is inside user)."""
        busy: dict[str, int] = {}
        with open(self._path("stat"), encoding="ascii") as file:
            for line in file:
                if not line.startswith("cpu"):
                    break
                name, *fields = line.split()
                if name == "cpu":
                    continue
                user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
                socket = self._socket_of_cpu.get(int(name[3:]), "0")
                busy[socket] = busy.get(socket, 0) + (user + nice + system + irq + softirq) * _US_PER_JIFFY
        return busy

    def memory_used_bytes(self) -> int | None:
        """MemTotal less MemAvailable."""
        total, available = self._meminfo("MemTotal"), self._meminfo("MemAvailable")
        return total - available if total is not None and available is not None else None

    def _meminfo(self, key: str) -> int | None:
        try:
            with open(self._path("meminfo"), encoding="ascii") as file:
                for line in file:
                    if line.startswith(key + ":"):
                        return int(line.split()[1]) * BYTES_PER_KIB
        except (OSError, ValueError, IndexError):
            return None
        return None
