"""Power and energy sensors of the kernel's hwmon tree (Documentation/hwmon/sysfs-interface.rst).

Two kinds may count: the ACPI power meter of a whole node, and the power meters of NVIDIA Grace. All other sensors are
listed with the reason why they do not. An `energyN_input` is a counter in microjoules; of a power the integral by
trapezoid is our own, so its key is of this process only: `...#1b2c3d4e`.
"""

import errno
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from eco2ai_hpc.meters import MeterAbsent, MeterFailed, Options
from eco2ai_hpc.model import Roots, Zone
from eco2ai_hpc.units import NS_PER_S, UW_PER_W

_VALUE = re.compile(r"^(?P<power>power\d+)_(?:average|input)$|^(?P<energy>energy\d+)_input$")
_NO_IDENTITY = re.compile(r"^(?:devices|class|hwmon\d*|device)$")
_ACPI = "power_meter"
# As NVIDIA's firmware writes them into power1_oem_info (Grace Performance Tuning Guide, "Power Telemetry").
_GRACE = re.compile(r"^(?P<area>module|grace|cpu|sysio) power socket (?P<socket>\d+)$", re.IGNORECASE)
# Firmware may offer any figure as a power meter, "Total CPU Energy In uJ socket 0" among them.
_PART = re.compile(r"socket|cpu|gpu|dram|dimm|memory|rail|core|soc\b|sysio|fan|energy|throt", re.IGNORECASE)
_OTHER_CHIPS = (
    (re.compile(r"^(amdgpu|radeon|nouveau|i915\w*|xe)$"), "gpu", "a GPU's own sensor; GPU meters count boards"),
    (re.compile(r"^amd_energy$"), "package", "the registers that RAPL reads"),
    (re.compile(r""), "psys", "nothing says which part of the node it measures"),
)
_POLL_S = 1.0
_POLL_SHARE = 20  # a meter behind a slow bus is read again after so many times what reading it took
# No reading for longer, a suspend included: what was drawn meanwhile is unknown, and a new series begins.
_LONGEST_GAP_NS = 60 * NS_PER_S
# A DGX H100 draws up to 10.2 kW (NVIDIA): the default bound of a node would call that implausible.
_NODE_MAX_UW = 15_000 * UW_PER_W
# _PMM says "not available" with all bits set (ACPI 6.0, 10.4.3), which arrives as 4295 kW.
_PLAUSIBLE_UW = 100_000 * UW_PER_W
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


class _Sensor(NamedTuple):
    """One value file of one chip."""

    chip: str
    device: str
    """Path below /sys/devices: hwmonX is a number in order of appearance, and moves."""
    name: str
    """power1, energy2, ..."""
    folder: str
    file: str
    label: str

    @property
    def is_energy(self) -> bool:
        return self.name.startswith("energy")

    def text(self, attribute: str) -> str | None:
        return _text(self.folder, f"{self.name}_{attribute}")

    def value(self) -> int:
        """Microjoules or microwatts; raises ValueError for a power that cannot be one."""
        text = _read(os.path.join(self.folder, self.file))
        if not text.isdigit():
            raise ValueError("not a number")
        value = int(text)
        # The ACPI driver shows 0 for a meter that has never answered.
        if not self.is_energy and not 0 < value < _PLAUSIBLE_UW:
            raise ValueError(f"{value} uW: not available")
        return value


class _Verdict(NamedTuple):
    """What a sensor measures, and whether that counts."""

    domain: str
    used: bool
    why: str
    is_read: bool
    """Whether it is read at all: others' power is neither counted nor evidence, and may wake a sleeping GPU."""


class _Counted:
    """The series of an energy counter."""

    method = "counter"

    def __init__(self, base: str) -> None:
        self.key = base
        self._base = base
        self._number = 1
        self._is_lost = False

    def take(self, energy_uj: int, now_ns: int) -> int:
        """The counter, in a series of its own if the sensor was gone: its driver may have begun anew."""
        if self._is_lost:
            self._is_lost = False
            self._number += 1
            self.key = f"{self._base}#{self._number}"
        return energy_uj

    def lose(self) -> None:
        self._is_lost = True


class _Integrated:
    """The series of a power, integrated by trapezoid in integers: nothing is lost to rounding between two readings."""

    method = "integrated"

    def __init__(self, base: str) -> None:
        self._base = base
        self._begin()

    def _begin(self) -> None:
        self.key = f"{self._base}#{os.urandom(4).hex()}"
        self._doubled_uw_ns = 0
        self._last: tuple[int, int] | None = None

    def take(self, power_uw: int, now_ns: int) -> int:
        """Microjoules since the series began."""
        if self._last and now_ns - self._last[1] > _LONGEST_GAP_NS:
            self._begin()
        if self._last:
            self._doubled_uw_ns += (self._last[0] + power_uw) * (now_ns - self._last[1])
        self._last = (power_uw, now_ns)
        return self._doubled_uw_ns // (2 * NS_PER_S)

    def lose(self) -> None:
        """A short absence is a gap like any other."""


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Hwmon:
    """All sensors of power and energy of the node."""

    def __init__(self, roots: Roots, clock: Callable[[], int]) -> None:
        self._roots = roots
        self._clock = clock
        self._sensors = _find(roots)
        self._verdicts = _judge(self._sensors)
        self._series = {
            key: _Counted(key) if sensor.is_energy else _Integrated(key)
            for key, sensor in self._sensors.items()
            if self._verdicts[key].is_read
        }
        self._rest_until_ns = 0
        self.zones = self._zones()
        integrates = any(isinstance(series, _Integrated) for series in self._series.values())
        self.poll_s = _POLL_S if integrates else None

    def read(self, counters: dict[str, int], errors: dict[str, str]) -> None:
        """Read every sensor that is read at all, and look for those that went away."""
        gone = []
        for base, series in self._series.items():
            try:
                counters[series.key] = self._take(base)
            except OSError as error:
                errors[series.key] = _code(error)
                if error.errno in _GONE:
                    gone.append(base)
            except ValueError as error:
                errors[series.key] = str(error)
        self._look_for(gone)
        self.zones = self._zones()

    def poll(self) -> None:
        """Sample the powers between two readings; what fails here is reported by the next reading."""
        began_ns = self._clock()
        if began_ns < self._rest_until_ns:
            return
        for base, series in self._series.items():
            if isinstance(series, _Integrated):
                try:
                    self._take(base)
                except (OSError, ValueError):
                    continue
        ended_ns = self._clock()
        self._rest_until_ns = ended_ns + _POLL_SHARE * (ended_ns - began_ns)
        self.zones = self._zones()

    def close(self) -> None:
        """Nothing is held between readings."""

    def failures(self) -> dict[str, str]:
        """The sensors that count and cannot be read, and why."""
        found = {}
        for base, verdict in self._verdicts.items():
            if verdict.used:
                try:
                    self._sensors[base].value()
                except (OSError, ValueError) as error:
                    found[base] = _code(error) if isinstance(error, OSError) else str(error)
        return found

    def _take(self, base: str) -> int:
        value = self._sensors[base].value()
        return self._series[base].take(value, self._clock())

    def _look_for(self, gone: list[str]) -> None:
        """A driver that was loaded again has its files elsewhere."""
        if not gone:
            return
        for base in gone:
            self._series[base].lose()
        with suppress(OSError):
            found = _find(self._roots)
            self._sensors.update({base: found[base] for base in gone if base in found})

    def _zones(self) -> tuple[Zone, ...]:
        return tuple(self._zone(base, verdict) for base, verdict in self._verdicts.items())

    def _zone(self, base: str, verdict: _Verdict) -> Zone:
        series = self._series.get(base)
        max_uw = _NODE_MAX_UW if verdict.domain == "node" else None
        method = "counter" if self._sensors[base].is_energy else "integrated"
        return Zone(series.key if series else base, verdict.domain, None, max_uw, verdict.used, verdict.why, method)


def open_meter(roots: Roots, options: Options, clock: Callable[[], int] = boottime_ns) -> Hwmon:
    """Find the sensors and read once those that count.

    Raises MeterAbsent without a sensor of power or energy, MeterFailed where none of those that count can be read.
    """
    del options
    meter = Hwmon(roots, clock)
    if not meter.zones:
        raise MeterAbsent(f"no sensor of power or energy below {_base(roots)}; modprobe acpi_power_meter")
    failures = meter.failures()
    if failures and len(failures) == sum(zone.used for zone in meter.zones):
        reason = ", ".join(f"{base}: {error}" for base, error in failures.items())
        raise MeterFailed(f"no hwmon sensor that counts can be read ({reason})")
    return meter


def _base(roots: Roots) -> str:
    return os.path.join(roots.sysfs, "class", "hwmon")


def _find(roots: Roots) -> dict[str, _Sensor]:
    """All sensors by key, `hwmon:chip/device/label`, whatever their hwmonX are."""
    try:
        entries = sorted(os.listdir(_base(roots)))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    sensors = [sensor for entry in entries for sensor in _sensors(os.path.join(_base(roots), entry), roots.sysfs)]
    return dict(sorted(zip(_keys(sensors), sensors, strict=True)))


def _sensors(entry: str, sysfs: str) -> Iterator[_Sensor]:
    """The sensors of one hwmonX. Drivers of the old registration have their files at the device."""
    device = os.path.join(entry, "device")
    chip = _text(entry, "name") or _text(device, "name") or "unknown"
    folder, files = entry, _value_files(entry)
    if not files:
        folder, files = device, _value_files(device)
    for name, file in files.items():
        label = _text(folder, f"{name}_label") or _text(folder, f"{name}_oem_info") or ""
        # The true path: hwmonX may be another chip by the next reading.
        yield _Sensor(chip, _identity(device, sysfs), name, os.path.realpath(folder), file, label)


def _value_files(folder: str) -> dict[str, str]:
    """File by sensor; of a power's average and its momentary value the average, which sorts first."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    files: dict[str, str] = {}
    for name in names:
        if match := _VALUE.match(name):
            files.setdefault(match["power"] or match["energy"], name)
    return files


def _identity(device: str, sysfs: str) -> str:
    path = os.path.relpath(os.path.realpath(device), os.path.realpath(sysfs))
    return "/".join(part for part in path.split(os.sep) if not _NO_IDENTITY.match(part)) or "virtual"


def _keys(sensors: list[_Sensor]) -> list[str]:
    """One key each: chip, device and label; the sensor's name too where a chip gives one label to several."""
    keys = [f"hwmon:{_word(s.chip)}/{_word(s.device)}/{_word(s.label) or s.name}" for s in sensors]
    often = Counter(keys)
    keys = [f"{key}/{s.name}" if often[key] > 1 else key for key, s in zip(keys, sensors, strict=True)]
    seen: Counter[str] = Counter()
    for place, key in enumerate(keys):
        seen[key] += 1
        keys[place] = key if seen[key] == 1 else f"{key}~{seen[key]}"
    return keys


def _word(text: str) -> str:
    return re.sub(r"[^\w./:+-]+", "-", text, flags=re.ASCII).strip("-")


def _judge(sensors: dict[str, _Sensor]) -> dict[str, _Verdict]:
    """Which sensors count. A node has one meter: where several could be it, nobody knows which is the whole."""
    sockets = {match["socket"] for s in sensors.values() if (match := _grace(s)) and match["area"].lower() == "grace"}
    verdicts = {key: _verdict(key, sensor, sockets) for key, sensor in sensors.items()}
    nodes = [key for key, verdict in verdicts.items() if verdict.used and verdict.domain == "node"]
    if len(nodes) > 1:
        why = f"one of {len(nodes)} that could be the node's meter: {', '.join(nodes)}"
        verdicts |= {key: verdicts[key]._replace(used=False, why=why) for key in nodes}
    return verdicts


def _verdict(key: str, sensor: _Sensor, sockets: set[str]) -> _Verdict:
    if sensor.chip != _ACPI:
        domain, why = next((domain, why) for chip, domain, why in _OTHER_CHIPS if chip.match(sensor.chip))
        return _Verdict(domain, used=False, why=why, is_read=sensor.is_energy)
    if "~" in key:
        return _Verdict("psys", used=False, why="cannot be told from another by chip, device and label", is_read=False)
    if match := _grace(sensor):
        return _grace_verdict(match["area"].lower(), match["socket"], sockets, _source(sensor))
    if sensor.text("is_battery") != "0":
        return _Verdict("psys", used=False, why="a battery's, or it does not say that it is none", is_read=False)
    if _PART.search(sensor.label):
        return _Verdict("psys", used=False, why=f"a part of the node, as its label says: {sensor.label}", is_read=False)
    return _Verdict("node", used=True, why=f"the node's ACPI power meter, {_source(sensor)}", is_read=True)


def _grace(sensor: _Sensor) -> re.Match[str] | None:
    return _GRACE.match(sensor.label) if sensor.chip == _ACPI else None


def _grace_verdict(area: str, socket: str, sockets: set[str], source: str) -> _Verdict:
    """A module holds CPU, memory and GPU; a Grace socket its rails and memory. meters/__init__.py keeps them apart."""
    if area == "module":
        return _Verdict("node", used=True, why=f"a superchip: CPU, memory, GPU, losses, {source}", is_read=True)
    if area == "grace":
        return _Verdict("package", used=True, why=f"a Grace socket, {source}", is_read=True)
    if socket in sockets:
        domain = "core" if area == "cpu" else "uncore"
        return _Verdict(domain, used=False, why=f"inside Grace Power Socket {socket}, {source}", is_read=True)
    if area == "cpu":
        return _Verdict("package", used=True, why=f"a Grace CPU's rail without memory, {source}", is_read=True)
    return _Verdict("uncore", used=False, why=f"a rail of Grace socket {socket}, {source}", is_read=True)


def _source(sensor: _Sensor) -> str:
    interval_ms = sensor.text("average_interval")
    mean = f", a mean of {interval_ms} ms" if sensor.file.endswith("_average") and interval_ms else ""
    return f"integrated from {sensor.file}{mean}"


def _text(folder: str, name: str) -> str | None:
    try:
        return _read(os.path.join(folder, name))
    except OSError:
        return None


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace").strip()
    finally:
        os.close(descriptor)


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))
