"""Every meter on every machine we know of: what it finds there, what counts, and why."""

import json
import re
from pathlib import Path

import pytest
from node_tree import METER_TREES, TWO_SOCKETS, Clock, Node, write_tree

from eco2ai_hpc import meters
from eco2ai_hpc.meters import model
from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import probe

FOLDERS = sorted(folder for folder in METER_TREES.glob("*/*") if folder.is_dir())
# NVIDIA's boards are no tree but a library: test_nvml.py
TREES = [folder for folder in FOLDERS if not (folder / "gpus.txt").exists()]


def roots(tree: Path) -> Roots:
    return Roots(str(tree / "sys"), str(tree / "proc"), str(tree / "cgroup"))


def entries(tree: Path, **options) -> dict[str, dict]:
    """The probe's JSON by meter; paths below the tree are shown relative to it, a process's own keys as zeros."""
    text = probe.as_json(probe.examine(roots(tree), meters.Options(**options))).replace(str(tree), ".")
    text = re.sub(r"#[0-9a-f]{8}", "#00000000", text)
    return {entry["name"]: entry for entry in json.loads(text)["meters"]}


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: f"{tree.parent.name}/{tree.name}")
def test_a_meter_finds_on_a_machine_what_is_expected(tree, update_golden):
    found = entries(tree)
    assert list(found) == meters.names(), "every meter is opened on every machine"
    expected = tree / "expected.json"
    if update_golden:
        expected.write_text(json.dumps(found[tree.parent.name], indent=1) + "\n")
    assert found[tree.parent.name] == json.loads(expected.read_text())


def test_every_meter_has_fixtures_and_every_fixture_folder_a_meter():
    assert {folder.parent.name for folder in FOLDERS} == set(meters.names())
    assert {path.name for path in METER_TREES.iterdir()} == set(meters.names())


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: f"{tree.parent.name}/{tree.name}")
def test_no_machine_counts_a_zone_twice(tree):
    zones = [zone["zone"] for entry in entries(tree).values() for zone in entry["zones"]]
    assert len(zones) == len(set(zones))


def test_the_model_is_not_asked_where_a_counter_counts():
    assert entries(TWO_SOCKETS)["model"]["status"] == "absent"


def test_the_model_steps_in_where_the_counters_fail():
    found = entries(METER_TREES / "rapl/unreadable-energy")
    assert (found["rapl"]["status"], found["model"]["status"]) == ("failed", "works")


def test_a_site_that_states_the_power_is_believed_before_any_list():
    [zone] = entries(METER_TREES / "model/bare-family-name", tdp_w=100.0, tdp_source="node_type n*")["model"]["zones"]
    assert zone["counter_uj"] == 200 * 100 // 2 * 1_000_000  # 200 CPU seconds, two CPUs share one socket's 100 W
    assert "100 W TDP (node_type n*)" in zone["why"]


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz", "xeon gold 6148"),
        ("AMD EPYC 7742 64-Core Processor", "epyc 7742"),
        ("AMD EPYC 7742", "epyc 7742"),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "core i7-8650u"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "xeon e5-2680 v4"),
    ],
)
def test_a_cpus_name_is_compared_without_what_vendors_add(given, normal):
    assert model.normalise(given) == normal


@pytest.mark.parametrize(
    "name", ["AMD EPYC", "Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) Processor", "", "6140"]
)
def test_a_name_without_a_model_has_no_power(name, tmp_path):
    write_tree(tmp_path, {"proc/cpuinfo": f"processor\t: 0\nmodel name\t: {name}"})
    with pytest.raises(meters.MeterAbsent, match="set tdp_w"):
        model.open_meter(roots(tmp_path), meters.Options())


def test_the_models_counter_goes_on_where_an_earlier_sampler_left_it(tmp_path):
    node = Node(tmp_path, Clock(), METER_TREES / "model/exact-match")
    first = model.open_meter(node.roots, meters.Options())
    second = model.open_meter(node.roots, meters.Options())
    before, after = {}, {}
    first.read(before, {})
    second.read(after, {})
    assert before == after


def test_a_model_that_cannot_read_the_cpu_time_says_so_and_gives_no_zero(tmp_path):
    node = Node(tmp_path, Clock(), METER_TREES / "model/exact-match")
    opened = model.open_meter(node.roots, meters.Options())
    (node.tree / "proc/stat").unlink()
    counters, errors = {}, {}
    opened.read(counters, errors)
    assert (counters, errors) == ({}, {"model:cpu": "FileNotFoundError"})


def test_a_zone_that_comes_back_is_read_again(tmp_path):
    node = Node(tmp_path, Clock())
    zone = node.tree / "sys/class/powercap/intel-rapl:1"
    away = zone.with_name("away")
    zone.rename(away)
    away.rename(zone)
    [rapl] = [outcome for outcome in meters.open_all(node.roots, meters.Options()) if outcome.name == "rapl"]
    rapl.meter.close()  # as after a failed read: the descriptor is given back
    zone.rename(away)
    counters, errors = {}, {}
    rapl.meter.read(counters, errors)
    assert errors == {"rapl:package-1": "ENOENT"}
    assert "rapl:package-1" not in counters
    away.rename(zone)
    counters, errors = {}, {}
    rapl.meter.read(counters, errors)
    assert (counters["rapl:package-1"], errors) == (123456789013, {})
    rapl.meter.close()


def test_zones_keep_their_names_when_their_numbers_move(tmp_path):
    node = Node(tmp_path, Clock())
    powercap = node.tree / "sys/class/powercap"
    for before, after in [("0", "9"), ("1", "0"), ("9", "1")]:
        for zone in sorted(powercap.glob(f"intel-rapl:{before}*")):
            zone.rename(powercap / zone.name.replace(f"rapl:{before}", f"rapl:{after}"))
    [moved] = [outcome for outcome in meters.open_all(node.roots, meters.Options()) if outcome.name == "rapl"]
    counters: dict[str, int] = {}
    moved.meter.read(counters, {})
    moved.meter.close()
    assert counters["rapl:package-0"] == 123456789012
    assert counters["rapl:package-1/dram"] == 2345678902


def test_one_meter_that_fails_does_not_stop_the_others(monkeypatch):
    def broken(_roots, _options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(meters.load("rapl"), "open_meter", broken)
    found = entries(TWO_SOCKETS)
    assert (found["rapl"]["status"], found["model"]["status"]) == ("failed", "works")


def test_the_probe_tells_a_person_what_counts_and_what_not():
    tree = METER_TREES / "rapl/core-and-uncore-inside"
    text = probe.as_text(probe.examine(roots(tree), meters.Options()))
    assert "  + rapl:package-0 " in text
    assert "  - rapl:package-0/core " in text
    assert "inside package-0" in text
