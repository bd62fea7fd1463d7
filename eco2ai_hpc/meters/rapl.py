"""RAPL through the kernel's powercap tree (Documentation/power/powercap/powercap.rst).

The driver has applied all unit quirks already: counters are read as they stand, never rescaled, never from MSRs.
Which zones count is decided once, in `_choose`; every zone left out says why.
"""

import errno
import os
import re

from eco2ai_hpc.meters import MeterAbsent, MeterFailed, Options
from eco2ai_hpc.model import Roots, Zone

# A sub-zone appears both flat and nested below its parent: only the flat list is walked.
_ENTRY = re.compile(r"^intel-rapl(?P<mmio>-mmio)?:(?P<parent>\d+)(?::\d+)?$")
_DIE = re.compile(r"^(package-\d+)-die-(\d+)$")
_PLAUSIBLE_LIMIT_UW = 2_000_000_000


class _Found:
    """One directory of the powercap tree."""

    def __init__(self, base: str, entry: str) -> None:
        match = _ENTRY.match(entry)
        assert match
        self.path = os.path.join(base, entry)
        self.prefix = "rapl-mmio" if match["mmio"] else "rapl"
        self.name = _text(self.path, "name") or entry
        self.is_top = entry.count(":") == 1
        parent = entry.rsplit(":", 1)[0]
        self.parent = None if self.is_top else _text(os.path.join(base, parent), "name") or parent
        local = f"{self.parent}/{self.name}" if self.parent else self.name
        self.local = local
        self.key = f"{self.prefix}:{local}"
        self.domain = re.sub(r"-\d.*$", "", self.name)
        self.wrap_uj = _positive(_text(self.path, "max_energy_range_uj"))
        self.max_uw = _highest_limit(self.path)


class Rapl:
    """All RAPL zones of the node, on held descriptors."""

    def __init__(self, found: list[_Found], zones: tuple[Zone, ...]) -> None:
        self.zones = zones
        self._paths = {item.key: os.path.join(item.path, "energy_uj") for item in found}
        self._descriptors: dict[str, int] = {}

    def read(self, counters: dict[str, int], errors: dict[str, str]) -> None:
        """Read every zone, unused ones too: they are evidence. A zone that went away is tried again next time."""
        for key, path in self._paths.items():
            try:
                counters[key] = self._read_uj(key, path)
            except OSError as error:
                errors[key] = errno.errorcode.get(error.errno or 0, str(error.errno))
                self._drop(key)
            except ValueError:
                errors[key] = "not a number"

    def _read_uj(self, key: str, path: str) -> int:
        descriptor = self._descriptors.get(key)
        if descriptor is None:
            descriptor = self._descriptors[key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        text = os.pread(descriptor, 32, 0).strip()
        if not text.isdigit():  # int() would take "-1" and "1_0" too
            raise ValueError(text)
        return int(text)

    def _drop(self, key: str) -> None:
        descriptor = self._descriptors.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        for key in list(self._descriptors):
            self._drop(key)


def open_meter(roots: Roots, options: Options) -> Rapl:
    """Find the zones and read each once.

    Raises MeterAbsent without a RAPL tree, MeterFailed where no zone that counts can be read.
    """
    del options
    base = os.path.join(roots.sysfs, "class", "powercap")
    try:
        entries = sorted(entry for entry in os.listdir(base) if _ENTRY.match(entry))
    except FileNotFoundError:
        raise MeterAbsent(f"no powercap in this kernel ({base}); modprobe intel_rapl_common") from None
    if not entries:
        raise MeterAbsent(f"no intel-rapl zone below {base}; modprobe intel_rapl_msr, or this is a virtual machine")
    found = [_Found(base, entry) for entry in entries]
    meter = Rapl(found, _choose(found, _vendor(roots)))
    _insist_on_one_reading(meter)
    return meter


def _insist_on_one_reading(meter: Rapl) -> None:
    counters: dict[str, int] = {}
    errors: dict[str, str] = {}
    meter.read(counters, errors)
    used = [zone.key for zone in meter.zones if zone.used]
    if not any(key in counters for key in used):
        reason = ", ".join(f"{key}: {errors.get(key)}" for key in used) or "no package or dram zone"
        meter.close()
        raise MeterFailed(f"no RAPL counter can be read ({reason}); energy_uj is readable by root only")


def _choose(found: list[_Found], vendor: str) -> tuple[Zone, ...]:
    """Decide which zones count: every package once and every dram (facts: meters, duplicates and inclusion)."""
    msr = {item.local for item in found if item.prefix == "rapl"}
    lowest_die: dict[str, int] = {}
    for item in found:
        if die := _DIE.match(item.name):
            lowest_die[die[1]] = min(int(die[2]), lowest_die.get(die[1], int(die[2])))
    zones = []
    for item in found:
        used, why = _verdict(item, msr, lowest_die, vendor)
        zones.append(Zone(item.key, item.domain, item.wrap_uj, item.max_uw, used, why))
    return tuple(zones)


def _verdict(item: _Found, msr: set[str], lowest_die: dict[str, int], vendor: str) -> tuple[bool, str]:
    if item.prefix == "rapl-mmio" and item.local in msr:
        return False, f"the same counter as rapl:{item.local}"
    if item.domain == "psys":
        return False, "contains the packages; never added to anything"
    if item.domain in ("core", "uncore"):
        return False, f"inside {item.parent}"
    if item.domain == "dram":
        return True, "beside its package, not inside"
    if item.domain != "package":
        return False, f"unknown domain {item.name!r}"
    die = _DIE.match(item.name)
    if die and vendor in ("AuthenticAMD", "HygonGenuine") and int(die[2]) != lowest_die[die[1]]:
        return False, f"mirrors the socket counter of {die[1]}-die-{lowest_die[die[1]]}"
    return True, "a package counts once"


def _vendor(roots: Roots) -> str:
    try:
        with open(os.path.join(roots.procfs, "cpuinfo"), encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("vendor_id"):
                    return line.partition(":")[2].strip()
    except OSError:
        return ""
    return ""


def _highest_limit(path: str) -> int | None:
    """The largest published limit up to 2 kW; names and windows of constraints may contradict each other."""
    limits = []
    try:
        names = os.listdir(path)
    except OSError:  # the zone went away since it was listed
        return None
    for name in names:
        if re.match(r"^constraint_\d+_(max_power|power_limit)_uw$", name):
            limit = _positive(_text(path, name))
            if limit is not None and limit <= _PLAUSIBLE_LIMIT_UW:
                limits.append(limit)
    return max(limits, default=None)


def _text(path: str, name: str) -> str | None:
    try:
        with open(os.path.join(path, name), encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _positive(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and int(text) > 0 else None
