"""HPE Cray's power management counters, /sys/cray/pm_counters: joules, for the node and for its parts.

The node's controller renews all files together, about ten times a second, and says so in `freshness`: readings belong
together only if it did not move meanwhile. The counters mean something only while `startup` stays the same; it changes
when the controller restarts (libpm_plugin, TU Dresden and Cray Inc., 2014). `generation` counts changed power caps and
resets nothing. `energy` is the whole node, accelerators included (docs-csm, "User Access to Compute Node Power Data").
"""

import errno
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from eco2ai_hpc.meters import MeterAbsent, MeterFailed, Options
from eco2ai_hpc.model import Roots, Zone
from eco2ai_hpc.units import NS_PER_S, UJ_PER_J, UW_PER_W

_ENERGY = re.compile(r"^(?:(?P<part>cpu|memory|accel)(?P<number>\d*)_)?energy$")
_JOULES = re.compile(r"^(\d+) J(?: \d+ us)?$")
_DOMAIN = {"node": "node", "cpu": "package", "memory": "dram", "accel": "gpu"}
# `cpu` and `memory` are those of all sockets together, of which a Cray EX node has up to four.
_MAX_UW = {"cpu": 4 * 700 * UW_PER_W, "memory": 4 * 250 * UW_PER_W}
_WHY = {
    "node": "the whole node, accelerators included",
    "cpu": "all processors, measured at their input",
    "memory": "all memory, measured at its input",
    "accel": "one accelerator board",
}
_RETRIES = 3
# At 10 Hz, a freshness that stands still for so long is a controller that counts no more.
_STANDSTILL_NS = 2 * NS_PER_S
# A part that reads 0 J where its node has counted this much is not fitted.
_NODE_COUNTED_J = 10_000


class _Unfresh(Exception):
    """The files changed while they were read, or change no more."""


class _Snapshot(NamedTuple):
    """All files, read within one freshness."""

    energy_uj: dict[str, int]
    failed: dict[str, str]
    startup: str | None
    freshness: str


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class CrayPm:
    """All energy counters of the node."""

    def __init__(self, directory: str, files: dict[str, Zone], clock: Callable[[], int]) -> None:
        self.zones = tuple(files.values())
        self.generation: str | None = None
        """How often a power cap was changed, as of the last reading; for whoever looks, no counter depends on it."""
        self._directory = directory
        self._files = files
        self._clock = clock
        self._startup: str | None = None
        self._series = 1
        self._moved: tuple[str, int] | None = None

    def read(self, counters: dict[str, int], errors: dict[str, str]) -> None:
        """Read every counter within one freshness, the unused ones too: they are evidence."""
        try:
            snapshot = self._snapshot()
        except _Unfresh as error:
            errors.update({zone.key: str(error) for zone in self.zones})
            return
        except OSError as error:
            errors.update({zone.key: _code(error) for zone in self.zones})
            return
        self._follow(snapshot.startup)
        for file, zone in zip(self._files, self.zones, strict=True):
            if file in snapshot.energy_uj:
                counters[zone.key] = snapshot.energy_uj[file]
            else:
                errors[zone.key] = snapshot.failed[file]

    def close(self) -> None:
        """Nothing is held between readings."""

    def _snapshot(self) -> _Snapshot:
        for _ in range(1 + _RETRIES):
            with suppress(BlockingIOError):  # a file that is just being renewed says EAGAIN
                snapshot = self._read_all()
                if snapshot.freshness.isdigit() and self._text("freshness") == snapshot.freshness:
                    self._insist_on_movement(snapshot.freshness)
                    return snapshot
        raise _Unfresh("not fresh")

    def _read_all(self) -> _Snapshot:
        freshness = self._text("freshness")
        snapshot = _Snapshot({}, {}, self._optional("startup"), freshness)
        for file in self._files:
            try:
                snapshot.energy_uj[file] = _joules(self._text(file)) * UJ_PER_J
            except BlockingIOError:
                raise
            except OSError as error:
                snapshot.failed[file] = _code(error)
            except ValueError:
                snapshot.failed[file] = "not a number"
        with suppress(OSError):
            self.generation = self._optional("generation")
        return snapshot

    def _insist_on_movement(self, freshness: str) -> None:
        now_ns = self._clock()
        if self._moved is None or self._moved[0] != freshness:
            self._moved = (freshness, now_ns)
        elif now_ns - self._moved[1] >= _STANDSTILL_NS:
            raise _Unfresh("freshness stands still")

    def _follow(self, startup: str | None) -> None:
        """Another startup: the counters began anew, so their series do."""
        if startup is not None and self._startup not in (None, startup):
            self._series += 1
            self.zones = tuple(zone._replace(key=f"{zone.key}#{self._series}") for zone in self._files.values())
        self._startup = startup or self._startup

    def _text(self, name: str) -> str:
        return _text(self._directory, name)

    def _optional(self, name: str) -> str | None:
        """None where the kernel does not have the file; one that is there must be readable."""
        try:
            return self._text(name)
        except FileNotFoundError:
            return None


def open_meter(roots: Roots, options: Options, clock: Callable[[], int] = boottime_ns) -> CrayPm:
    """Find the counters and read each once.

    Raises MeterAbsent on anything but a Cray, MeterFailed where no counter that counts can be read.
    """
    del options
    directory = os.path.join(roots.sysfs, "cray", "pm_counters")
    try:
        names = sorted(name for name in os.listdir(directory) if _ENERGY.match(name))
    except (FileNotFoundError, NotADirectoryError):
        raise MeterAbsent(f"not a Cray ({directory} is not there)") from None
    if not names:
        raise MeterAbsent(f"no energy counter in {directory}")
    meter = CrayPm(directory, {name: _zone(directory, name, names) for name in names}, clock)
    _insist_on_one_reading(meter)
    return meter


def _insist_on_one_reading(meter: CrayPm) -> None:
    counters: dict[str, int] = {}
    errors: dict[str, str] = {}
    meter.read(counters, errors)
    used = [zone.key for zone in meter.zones if zone.used]
    # One that is only being renewed will be readable at the next tick.
    if not any(key in counters or errors[key] == "not fresh" for key in used):
        reason = ", ".join(f"{key}: {errors[key]}" for key in used) or "every part reads 0 J"
        raise MeterFailed(f"no Cray energy counter can be read ({reason})")


def _zone(directory: str, name: str, names: list[str]) -> Zone:
    match = _ENERGY.match(name)
    assert match
    part, number = match["part"] or "node", match["number"] or ""
    used, why = _verdict(directory, name, part, number, names)
    max_uw = _MAX_UW.get(part) if not number else None
    return Zone(f"cray_pm:{part}{number}", _DOMAIN[part], None, max_uw, used, why)


def _verdict(directory: str, name: str, part: str, number: str, names: list[str]) -> tuple[bool, str]:
    """Each part once: `cpu` before its `cpuN`, but `accelN` before their sum, as jobs have boards of their own."""
    if part == "accel" and not number and any(re.match(r"^accel\d+_energy$", other) for other in names):
        return False, "the sum of the accelerators"
    if part != "accel" and number and f"{part}_energy" in names:
        return False, f"inside cray_pm:{part}"
    if part != "node" and _counted_j(directory, name) == 0 and (_counted_j(directory, "energy") or 0) > _NODE_COUNTED_J:
        return False, "reads 0 J: not fitted"
    return True, _WHY[part]


def _counted_j(directory: str, name: str) -> int | None:
    try:
        return _joules(_text(directory, name))
    except (OSError, ValueError):
        return None


def _joules(text: str) -> int:
    match = _JOULES.match(text)
    if not match:
        raise ValueError(text)
    return int(match[1])


def _text(directory: str, name: str) -> str:
    descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 128).decode("ascii", "replace").strip()  # a text file object would hide EAGAIN
    finally:
        os.close(descriptor)


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))
