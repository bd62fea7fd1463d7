"""Meters of whole nodes, on trees and while they run, and the choice between meters that see the same silicon."""

import json
import re
import shutil
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_tree import METER_TREES, SECOND, TWO_SOCKETS, write_tree

from eco2ai_hpc import meters
from eco2ai_hpc.meters import Offer, Outcome, cray_pm, hwmon
from eco2ai_hpc.model import Roots, Zone
from eco2ai_hpc.sampler import probe

TREES = sorted(tree for name in ("cray_pm", "hwmon") for tree in (METER_TREES / name).iterdir())
W = 1_000_000
J = 1_000_000


class Ticking:
    """CLOCK_BOOTTIME that a test turns."""

    def __init__(self) -> None:
        self.ns = 86_400 * SECOND

    def __call__(self) -> int:
        return self.ns

    def go_on(self, seconds: float) -> None:
        self.ns += round(seconds * SECOND)


@pytest.fixture
def ticking() -> Ticking:
    return Ticking()


def roots(tree: Path) -> Roots:
    return Roots(str(tree / "sys"), str(tree / "proc"), str(tree / "cgroup"))


def copy(tree: str, to: Path) -> Path:
    shutil.copytree(METER_TREES / tree, to, symlinks=True, dirs_exist_ok=True)
    return to


def reading(meter) -> tuple[dict[str, int], dict[str, str]]:
    counters: dict[str, int] = {}
    errors: dict[str, str] = {}
    meter.read(counters, errors)
    return counters, errors


def without_series(text: str) -> str:
    """The key of an integrated power is another in every process."""
    return re.sub(r"#[0-9a-f]{8}", "#00000000", text)


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: f"{tree.parent.name}/{tree.name}")
def test_a_node_meter_finds_on_a_machine_what_is_expected(tree, update_golden):
    text = probe.as_json(probe.examine(roots(tree), meters.Options()))
    entries = json.loads(without_series(text).replace(str(tree), "."))["meters"]
    [found] = [entry for entry in entries if entry["name"] == tree.parent.name]
    expected = tree / "expected.json"
    if update_golden:
        expected.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(expected.read_text())


# Cray: freshness, startup, generation


@pytest.fixture
def cray(tmp_path) -> Path:
    return copy("cray_pm/ex-mi250x", tmp_path / "cray")


def counter_file(tree: Path, name: str) -> Path:
    return tree / "sys/cray/pm_counters" / name


def renewals(monkeypatch, tree: Path, times: int) -> None:
    """The controller renews its files while they are read, so many times, and then leaves them alone."""
    read = cray_pm._text
    left = [times]
    freshness = counter_file(tree, "freshness")

    def renewed(directory: str, name: str) -> str:
        if name == "energy" and left[0]:
            left[0] -= 1
            freshness.write_text(f"{int(freshness.read_text()) + 1}\n")
        return read(directory, name)

    monkeypatch.setattr(cray_pm, "_text", renewed)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_files_that_are_renewed_meanwhile_are_read_again(cray, monkeypatch, times):
    meter = cray_pm.open_meter(roots(cray), meters.Options())
    renewals(monkeypatch, cray, times)
    counters, errors = reading(meter)
    assert (counters["cray_pm:node"], errors) == (12044825101 * J, {})


def test_files_that_never_hold_still_give_no_value(cray, monkeypatch):
    meter = cray_pm.open_meter(roots(cray), meters.Options())
    renewals(monkeypatch, cray, 4)
    counters, errors = reading(meter)
    assert counters == {}
    assert errors == {zone.key: "not fresh" for zone in meter.zones}
    assert reading(meter)[1] == {}, "the next reading is as good as ever"


def test_a_file_that_is_busy_is_read_again(cray, monkeypatch):
    meter = cray_pm.open_meter(roots(cray), meters.Options())
    read, busy = cray_pm._text, ["accel1_energy"]

    def sometimes(directory: str, name: str) -> str:
        if name in busy:
            busy.remove(name)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return read(directory, name)

    monkeypatch.setattr(cray_pm, "_text", sometimes)
    counters, errors = reading(meter)
    assert (counters["cray_pm:accel1"], errors) == (2186017852 * J, {})


def test_a_controller_that_started_again_begins_new_series(cray):
    meter = cray_pm.open_meter(roots(cray), meters.Options())
    copy("cray_pm/controller-restarted", cray)
    counters, errors = reading(meter)
    assert errors == {}
    assert set(counters) == {zone.key for zone in meter.zones}
    assert counters["cray_pm:node#2"] == 41250 * J
    assert [zone.domain for zone in meter.zones if zone.key == "cray_pm:accel0#2"] == ["gpu"]
    counter_file(cray, "startup").write_text("1719000001\n")
    assert "cray_pm:node#3" in reading(meter)[0]


def test_without_its_startup_counter_nobody_knows_which_series_a_value_belongs_to(cray):
    meter = cray_pm.open_meter(roots(cray), meters.Options())
    counter_file(cray, "startup").unlink()
    counter_file(cray, "startup").mkdir()
    counters, errors = reading(meter)
    assert counters == {}
    assert set(errors.values()) == {"EISDIR"}


def test_a_changed_power_cap_is_noted_and_resets_nothing(cray):
    meter = cray_pm.open_meter(roots(cray), meters.Options())
    assert meter.generation == "17"
    counter_file(cray, "generation").write_text("18\n")
    assert "cray_pm:node" in reading(meter)[0]
    assert meter.generation == "18"


def test_a_controller_that_stands_still_gives_no_value(cray, ticking):
    meter = cray_pm.open_meter(roots(cray), meters.Options(), ticking)
    ticking.go_on(0.25)
    assert "cray_pm:node" in reading(meter)[0], "two readings within a second may well see the same files"
    ticking.go_on(30)
    counters, errors = reading(meter)
    assert counters == {}
    assert errors["cray_pm:node"] == "freshness stands still"
    counter_file(cray, "freshness").write_text("78102140\n")
    assert "cray_pm:node" in reading(meter)[0]


# hwmon: integration, identity


def power(tree: Path, uw: object, meter: int = 0) -> None:
    (tree / f"sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI000D:{meter:02}/power1_average").write_text(f"{uw}\n")


@pytest.fixture
def acpi(tmp_path) -> Path:
    return copy("hwmon/acpi-one-meter", tmp_path / "acpi")


def test_power_is_integrated_by_trapezoid(acpi, ticking):
    meter = hwmon.open_meter(roots(acpi), meters.Options(), ticking)
    assert meter.poll_s == 1.0
    energy = []
    for watts, seconds in [(100, 0), (300, 10), (300, 5), (100, 1)]:
        ticking.go_on(seconds)
        power(acpi, watts * W)
        [counter] = reading(meter)[0].values()
        energy.append(counter)
    assert energy == [0, 2000 * J, 3500 * J, 3700 * J]


def test_polls_between_two_readings_see_what_the_readings_miss(acpi, ticking):
    meter = hwmon.open_meter(roots(acpi), meters.Options(), ticking)
    power(acpi, 100 * W)
    reading(meter)
    for watts in [500, 500, 100]:
        ticking.go_on(1)
        power(acpi, watts * W)
        meter.poll()
    assert list(reading(meter)[0].values()) == [1100 * J]


@given(st.lists(st.tuples(st.integers(1, 10**10), st.integers(0, 60 * SECOND)), min_size=1, max_size=30))
def test_an_integral_loses_nothing_to_rounding(samples):
    series, now_ns = hwmon._Integrated("hwmon:x"), 0
    for power_uw, elapsed_ns in samples:
        now_ns += elapsed_ns
        counter_uj = series.take(power_uw, now_ns)
    exact = sum(Fraction(before + after, 2) * elapsed / SECOND for (before, _), (after, elapsed) in pairwise(samples))
    assert counter_uj == floor(exact)


def test_a_power_that_failed_for_a_moment_is_bridged(acpi, ticking):
    meter = hwmon.open_meter(roots(acpi), meters.Options(), ticking)
    power(acpi, 100 * W)
    reading(meter)
    ticking.go_on(20)
    power(acpi, "4294967295000")  # all bits set: not available
    meter.poll()
    counters, errors = reading(meter)
    assert counters == {}
    assert list(errors.values()) == ["4294967295000 uW: not available"]
    ticking.go_on(20)
    power(acpi, 100 * W)
    assert list(reading(meter)[0].values()) == [4000 * J]


def test_what_was_drawn_while_nobody_looked_is_not_made_up(acpi, ticking):
    meter = hwmon.open_meter(roots(acpi), meters.Options(), ticking)
    [before] = reading(meter)[0]
    ticking.go_on(61)  # suspended, or the sensor was gone
    counters, errors = reading(meter)
    assert (list(counters.values()), errors) == ([0], {})
    [after] = counters
    assert before != after
    assert without_series(before) == without_series(after)
    assert [zone.key for zone in meter.zones] == [after]


def test_an_integral_has_another_key_in_every_process(acpi):
    [first] = hwmon.open_meter(roots(acpi), meters.Options()).zones
    [second] = hwmon.open_meter(roots(acpi), meters.Options()).zones
    assert re.fullmatch(r"hwmon:power_meter/LNXSYSTM:00/LNXSYBUS:00/ACPI000D:00/power1#[0-9a-f]{8}", first.key)
    assert first.key != second.key
    assert first.method == "integrated"


def test_a_slow_meter_is_polled_less_often(acpi, ticking, monkeypatch):
    meter = hwmon.open_meter(roots(acpi), meters.Options(), ticking)
    read, polls = hwmon._read, []

    def slow(path: str) -> str:
        polls.append(ticking())
        ticking.go_on(0.5)
        return read(path)

    monkeypatch.setattr(hwmon, "_read", slow)
    for _ in range(30):
        meter.poll()
        ticking.go_on(1)
    assert len(polls) == 3


def test_a_poll_never_raises(acpi, ticking):
    meter = hwmon.open_meter(roots(acpi), meters.Options(), ticking)
    shutil.rmtree(acpi / "sys")
    meter.poll()
    assert list(reading(meter)[1].values()) == ["ENOENT"]


def test_counters_alone_need_no_polls(tmp_path):
    write_tree(tmp_path / "sys/class/hwmon/hwmon0", {"name": "ina238", "energy1_input": 77})
    meter = hwmon.open_meter(roots(tmp_path), meters.Options())
    assert meter.poll_s is None
    assert reading(meter) == ({"hwmon:ina238/virtual/energy1": 77}, {})


def renumber(tree: Path, before: str, after: str) -> None:
    """hwmon indices are given in the order in which drivers are loaded."""
    link = tree / "sys/class/hwmon" / before
    target = Path(str(link.readlink()).replace(before, after))
    (link.parent / link.readlink()).rename(link.parent / target)
    link.unlink()
    (link.parent / after).symlink_to(target)


def test_sensors_keep_their_names_when_their_numbers_move(tmp_path):
    tree = copy("hwmon/gpus-with-colliding-indices", tmp_path / "gpus")
    before = reading(hwmon.open_meter(roots(tree), meters.Options()))
    for names in [("hwmon3", "hwmon99"), ("hwmon10", "hwmon3"), ("hwmon99", "hwmon10")]:
        renumber(tree, *names)
    assert reading(hwmon.open_meter(roots(tree), meters.Options())) == before
    assert len(before[0]) == 4


def test_a_counter_whose_driver_was_loaded_again_begins_a_new_series(tmp_path):
    tree = copy("hwmon/gpus-with-colliding-indices", tmp_path / "gpus")
    meter = hwmon.open_meter(roots(tree), meters.Options())
    card = "hwmon:xe/pci0000:80/0000:80:01.0/0000:83:00.0/card"
    renumber(tree, "hwmon10", "hwmon11")
    counters, errors = reading(meter)
    assert errors[card] == "ENOENT"
    assert card not in counters
    counters, errors = reading(meter)
    assert errors == {}
    assert counters[f"{card}#2"] == 61234567890
    assert set(counters) <= {zone.key for zone in meter.zones}


def test_a_number_that_another_chip_took_over_is_not_read_for_the_old_one(tmp_path):
    tree = copy("hwmon/gpus-with-colliding-indices", tmp_path / "gpus")
    meter = hwmon.open_meter(roots(tree), meters.Options())
    renumber(tree, "hwmon10", "hwmon99")
    renumber(tree, "hwmon3", "hwmon10")
    reading(meter)
    counters, errors = reading(meter)
    assert errors == {}
    assert counters["hwmon:xe/pci0000:00/0000:00:01.0/0000:03:00.0/card#2"] == 51234567890


def test_two_chips_that_nothing_tells_apart_have_two_keys(tmp_path):
    for index in (0, 1):
        write_tree(tmp_path / f"sys/class/hwmon/hwmon{index}", {"name": "ina238", "energy1_input": index})
    assert len(reading(hwmon.open_meter(roots(tmp_path), meters.Options()))[0]) == 2


# Which of several meters counts


def zone(key: str, domain: str, *, used: bool = True) -> Zone:
    return Zone(key, domain, None, None, used, "as its meter says")


CRAY = [
    zone("cray_pm:node", "node"),
    zone("cray_pm:cpu", "package"),
    zone("cray_pm:memory", "dram"),
    zone("cray_pm:accel0", "gpu"),
]
RAPL = [
    zone("rapl:package-0", "package"),
    zone("rapl:package-1", "package"),
    zone("rapl:package-0/dram", "dram"),
    zone("rapl:package-0/core", "core", used=False),
    zone("rapl:psys", "psys", used=False),
]
MMIO = zone("rapl-mmio:package-1", "package")
NVML = [zone("nvml:GPU-1b2c", "gpu"), zone("nvml:GPU-77aa", "gpu")]
ACPI = zone("hwmon:power_meter/ACPI000D:00/power1#00c0ffee", "node")
MODULE = zone("hwmon:power_meter/ACPI000D:01/Module-Power-Socket-0#00c0ffee", "node")
GRACE = zone("hwmon:power_meter/ACPI000D:02/Grace-Power-Socket-0#00c0ffee", "package")
MODEL = zone("model:cpu", "package")


def decided(**offered: list[Zone]) -> dict[str, Zone]:
    outcomes = [Outcome(name, "works", "", _Fixed(zones)) for name, zones in offered.items()]
    outcomes.append(Outcome("absent", "absent", "no such hardware", None))
    return {found.key: found for found in meters.counting_zones(outcomes)}


class _Fixed:
    def __init__(self, zones: list[Zone]) -> None:
        self.zones = tuple(zones)


@pytest.mark.parametrize(
    ("case", "offered", "counts"),
    [
        ("components only", {"rapl": RAPL, "nvml": NVML}, ["rapl:package-0", "rapl:package-1", "rapl:package-0/dram"]),
        ("two control types of one meter", {"rapl": [RAPL[0], MMIO]}, ["rapl:package-0", "rapl-mmio:package-1"]),
        ("Cray over RAPL", {"cray_pm": CRAY[:3], "rapl": RAPL}, ["cray_pm:node", "cray_pm:cpu", "cray_pm:memory"]),
        ("Cray without memory", {"cray_pm": CRAY[:2], "rapl": RAPL}, ["cray_pm:node", "cray_pm:cpu", RAPL[2].key]),
        ("Cray with AMD GPUs", {"cray_pm": CRAY}, [found.key for found in CRAY]),
        ("Cray with NVIDIA GPUs", {"cray_pm": CRAY, "nvml": NVML}, [found.key for found in CRAY[:3]]),
        ("Cray over ACPI", {"cray_pm": CRAY[:1], "hwmon": [ACPI]}, ["cray_pm:node"]),
        ("ACPI with components", {"hwmon": [ACPI], "rapl": RAPL[:1]}, [ACPI.key, "rapl:package-0"]),
        ("a module counts alone", {"hwmon": [MODULE, GRACE]}, [MODULE.key]),
        ("without a module its parts count", {"hwmon": [MODULE._replace(used=False), GRACE]}, [GRACE.key]),
        ("Cray over a module", {"cray_pm": CRAY[:1], "hwmon": [MODULE, GRACE]}, ["cray_pm:node", GRACE.key]),
        ("Cray over Grace", {"cray_pm": CRAY[:2], "hwmon": [GRACE]}, ["cray_pm:node", "cray_pm:cpu"]),
        (
            "psys never",
            {"rapl": [zone("rapl:psys", "psys"), zone("rapl:package-0/core", "core"), RAPL[0]]},
            [RAPL[0].key],
        ),
        ("the model behind every counter", {"model": [MODEL], "rapl": RAPL[:1]}, ["rapl:package-0"]),
        ("a meter nobody ranked", {"bmc": [zone("bmc:node", "node")], "hwmon": [ACPI]}, [ACPI.key]),
        ("one node meter of two", {"bmc": [zone("bmc:a", "node"), zone("bmc:b", "node")]}, ["bmc:a"]),
        ("nothing", {}, []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_counted_twice(case, offered, counts):
    found = decided(**offered)
    expected = set(counts)
    if "nvml" in offered:
        expected |= {item.key for item in NVML}
    assert {key for key, item in found.items() if item.used} == expected, case
    assert list(found) == [item.key for zones in offered.values() for item in zones], "losers stay recorded"


@pytest.mark.parametrize(
    ("loser", "offered", "why"),
    [
        ("rapl:package-0", {"cray_pm": CRAY, "rapl": RAPL}, "counted by cray_pm:cpu"),
        ("rapl:package-0/dram", {"cray_pm": CRAY, "rapl": RAPL}, "counted by cray_pm:memory"),
        ("cray_pm:accel0", {"cray_pm": CRAY, "nvml": NVML}, "counted by nvml:GPU-1b2c and 1 more"),
        (ACPI.key, {"cray_pm": CRAY, "hwmon": [ACPI]}, "counted by cray_pm:node"),
        (GRACE.key, {"hwmon": [MODULE, GRACE]}, f"inside {MODULE.key}, which counts alone"),
        ("nvml:GPU-1b2c", {"hwmon": [MODULE], "nvml": NVML}, f"inside {MODULE.key}, which counts alone"),
        ("rapl:package-0/core", {"cray_pm": CRAY, "rapl": RAPL}, "as its meter says"),
        ("rapl:psys", {"rapl": [zone("rapl:psys", "psys")]}, "contains the packages; never added to anything"),
    ],
)
def test_what_does_not_count_says_what_does(loser, offered, why):
    if loser.startswith("nvml"):
        assert not decided(**offered)[loser].used
    assert decided(**offered)[loser].why == why


def test_a_domain_is_not_handed_to_another_meter_while_its_own_has_no_zone():
    claims = frozenset({"gpu"})
    cray = Offer("cray_pm", (CRAY[3],), claims)
    [accel] = meters.without_overlap([cray, Offer("nvml", (), claims)])  # the driver is being loaded again
    assert (accel.used, accel.why) == (False, "counted by nvml")
    accel, gpu = meters.without_overlap([cray, Offer("nvml", (zone("nvml:GPU-1b2c#2", "gpu"),), claims)])
    assert (accel.used, gpu.used) == (False, True)


def test_a_meter_that_comes_late_to_a_domain_does_not_take_it_over():
    cray = Offer("cray_pm", (CRAY[3],), frozenset({"gpu"}))
    accel, gpu = meters.without_overlap([cray, Offer("nvml", (NVML[0],), frozenset())])
    assert (accel.used, gpu.used) == (True, False)
    [only] = meters.without_overlap([Offer("nvml", (NVML[0],), frozenset())])
    assert only.used, "a domain that nobody counted is free"


_ZONES = st.sampled_from(CRAY + RAPL + NVML + [ACPI, MODULE, GRACE, MODEL, MMIO])
_METERS = {
    "cray_pm": "cray_pm",
    "rapl": "rapl",
    "rapl-mmio": "rapl",
    "nvml": "nvml",
    "hwmon": "hwmon",
    "model": "model",
}


@given(st.sets(_ZONES), st.dictionaries(st.sampled_from(sorted(set(_METERS.values()))), st.sets(_ZONES)))
def test_whatever_is_offered_no_energy_counts_twice(offered, claimed):
    by_meter: dict[str, list[Zone]] = {}
    for item in sorted(offered):
        by_meter.setdefault(_METERS[item.key.partition(":")[0]], []).append(item)
    offers = [
        Offer(name, tuple(zones), frozenset(item.domain for item in claimed.get(name, ()) if item.used))
        for name, zones in by_meter.items()
    ]
    found = meters.without_overlap(offers)
    assert sorted(item.key for item in found) == sorted(item.key for item in offered)
    used = [item for item in found if item.used]
    owners: dict[str, set[str]] = {}
    for item in used:
        owners.setdefault(item.domain, set()).add(_METERS[item.key.partition(":")[0]])
    assert all(len(names) == 1 for names in owners.values())
    assert not owners.keys() & {"core", "uncore", "psys"}
    assert sum(item.domain == "node" for item in used) <= 1
    assert MODULE not in used or used == [MODULE]
    assert all(item.used for item in offered if item in used)


def test_on_a_cray_the_boards_own_meters_count_and_rapl_is_a_check(tmp_path):
    tree = copy("cray_pm/ex-mi250x", tmp_path)
    shutil.copytree(TWO_SOCKETS / "sys", tree / "sys", dirs_exist_ok=True)
    outcomes = meters.open_all(roots(tree), meters.Options())
    found = {item.key: item for item in meters.counting_zones(outcomes)}
    assert {key.partition(":")[0] for key, item in found.items() if item.used} == {"cray_pm"}
    assert found["rapl:package-0"].why == "counted by cray_pm:cpu"
    assert {outcome.name: set(outcome.claims) for outcome in outcomes if outcome.meter} == {
        "cray_pm": {"node", "package", "dram", "gpu"},
        "rapl": {"package", "dram"},
    }
    for outcome in outcomes:
        if outcome.meter:
            outcome.meter.close()
