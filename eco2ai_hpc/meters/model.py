"""The model meter, for machines without any counter: busy CPU time times thermal design power.

E = busy CPU seconds x TDP x sockets / logical CPUs. It has no idle floor: an idle node reads low. Every figure that
rests on it is graded `modelled`. The counter is a function of the kernel's own busy time since boot, so it survives
restarts of the sampler like a real one.
"""

import csv
import os
import re

from eco2ai_hpc import resources
from eco2ai_hpc.meters import MeterAbsent, Options
from eco2ai_hpc.model import Roots, Zone
from eco2ai_hpc.units import UW_PER_W

FALLBACK = True
_KEY = "model:cpu"
_NOISE = re.compile(r"\((?:r|tm)\)|\bcpu\b|\bprocessor\b|@.*$|\b\d+-core\b|^(?:intel|amd)\b")
_MODEL_NUMBER = re.compile(r"[a-z].*\d|\d.*[a-z]")
_LISTS = (("codecarbon", "cpu_power.csv", "Name", "TDP"), ("eco2ai", "cpu_names.csv", "Model", "TDP"))


class Model:
    """One zone: all sockets together."""

    def __init__(self, roots: Roots, tdp_w: float, cpus: int, sockets: int, why: str) -> None:
        self._stat = os.path.join(roots.procfs, "stat")
        self._sockets_tdp_uw = round(tdp_w * UW_PER_W) * sockets
        self._cpus = cpus
        self.zones = (Zone(_KEY, "package", None, self._sockets_tdp_uw, used=True, why=why, method="modelled"),)

    def read(self, counters: dict[str, int], errors: dict[str, str]) -> None:
        try:
            # busy_us x uW / 10^6 = uJ; divided by the CPUs among which the sockets' TDP is shared.
            counters[_KEY] = busy_us(self._stat) * self._sockets_tdp_uw // (1_000_000 * self._cpus)
        except (OSError, ValueError) as error:
            errors[_KEY] = type(error).__name__

    def close(self) -> None:
        pass


def open_meter(roots: Roots, options: Options) -> Model:
    """Find the CPU's TDP; raises MeterAbsent where nobody states it: never a guess."""
    name, cpus, sockets = _cpu(roots)
    if options.tdp_w is not None:
        tdp_w, source = options.tdp_w, options.tdp_source
    else:
        tdp_w, source = _published_tdp_w(name)
    return Model(roots, tdp_w, cpus, sockets, f"modelled: CPU time x {tdp_w:g} W TDP ({source}) x {sockets} socket(s)")


def busy_us(stat_path: str) -> int:
    """Busy time of all CPUs since boot in microseconds: user, nice, system, irq, softirq (guest is inside user)."""
    with open(stat_path, encoding="ascii") as file:
        fields = [int(word) for word in file.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) * (1_000_000 // os.sysconf("SC_CLK_TCK"))


def normalise(name: str) -> str:
    """The CPU's name without what vendors, kernels and lists add to it."""
    text = name.lower()
    before = None
    while before != text:
        before = text
        text = " ".join(_NOISE.sub(" ", text).split())
    return text


def _published_tdp_w(name: str) -> tuple[float, str]:
    """The TDP on which all rows of all lists that know the name agree; exact match only."""
    wanted = normalise(name)
    if not _MODEL_NUMBER.search(wanted):
        # A virtual machine often says no more than "Intel(R) Xeon(R) CPU @ 2.20GHz"; one list has a row for that.
        raise MeterAbsent(f"{name!r} names a family and no model; set tdp_w for this node type")
    values: set[tuple[str, float]] = set()
    for origin, file, name_column, tdp_column in _LISTS:
        with open(resources.path("data", "tdp", origin, file), encoding="utf-8-sig", newline="") as text:
            for row in csv.DictReader(text):
                if normalise(row[name_column]) == wanted and _is_watts(row[tdp_column]):
                    values.add((origin, float(row[tdp_column])))
    if not values:
        raise MeterAbsent(f"the TDP of {name!r} is in no list; set tdp_w for this node type")
    if len({watts for _, watts in values}) > 1:
        listed = ", ".join(f"{origin} {watts:g} W" for origin, watts in sorted(values))
        raise MeterAbsent(f"the lists disagree on the TDP of {name!r} ({listed}); set tdp_w for this node type")
    origins = sorted(origin for origin, _ in values)
    return max(watts for _, watts in values), " and ".join(origins) + " list"


def _is_watts(text: str) -> bool:
    try:
        return 0 < float(text) < 2000
    except ValueError:
        return False


def _cpu(roots: Roots) -> tuple[str, int, int]:
    """Name, logical CPUs and sockets from /proc/cpuinfo."""
    name, cpus, sockets = "", 0, set()
    try:
        with open(os.path.join(roots.procfs, "cpuinfo"), encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                key, value = key.strip(), value.strip()
                if key == "processor":
                    cpus += 1
                elif key == "model name":
                    name = value
                elif key == "physical id":
                    sockets.add(value)
    except OSError as error:
        raise MeterAbsent(f"no CPU description: {error}") from None
    if not cpus:
        raise MeterAbsent("no processor in cpuinfo")
    return name, cpus, max(1, len(sockets))
