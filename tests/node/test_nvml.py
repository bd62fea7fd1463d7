"""NVIDIA boards through the unmodified binding and a fake driver: what is counted, what fails, and what that costs."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from node_tree import METER_TREES
from nvml_node import NvmlNode, compile_library, key, uuid

MACHINES = sorted((METER_TREES / "nvml").iterdir())
BARE = METER_TREES / "rapl/no-powercap"
MIG = "MIG-00000000-0000-0000-{instance:04}-{board:012}"

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc to compile the fake driver with")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """Folders by the kind of driver in them."""
    flags = {"new": [], "old-driver": ["-DOLD_DRIVER"]}
    return {kind: compile_library(tmp_path_factory.mktemp(kind), *options) for kind, options in flags.items()}


@pytest.fixture
def gpus(tmp_path, libraries):
    """Makes nodes; none outlives its test."""
    nodes = []

    def make(boards=None, library="new", **environment):
        nodes.append(NvmlNode(tmp_path, libraries[library] if library else None, boards, **environment))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_nvml_finds_on_a_machine_what_is_expected(machine, tmp_path, libraries, update_golden):
    shutil.copytree(BARE, tmp_path / "node")
    if (machine / "proc").exists():
        shutil.copytree(machine / "proc", tmp_path / "node/proc", dirs_exist_ok=True)
    environment = os.environ | {"FAKE_NVML_FILE": str(machine / "gpus.txt")}
    library = machine / "library.txt"
    kind = library.read_text().strip() if library.exists() else "new"
    if kind != "none":
        environment["LD_LIBRARY_PATH"] = str(libraries[kind])
    roots = [f"--{tree}={tmp_path / 'node' / tree[:4].strip('f')}" for tree in ("sysfs", "procfs")]
    probe = [sys.executable, "-m", "eco2ai_hpc.sampler", "probe", "--json", *roots]
    shown = subprocess.run(probe, env=environment, capture_output=True, text=True).stdout
    [found] = [meter for meter in json.loads(shown)["meters"] if meter["name"] == "nvml"]
    found = json.loads(re.sub(r"#[0-9a-f]{8}", "#<8 hex>", json.dumps(found)))
    expected = machine / "expected.json"
    if update_golden:
        expected.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(expected.read_text())


def test_constant_watts_are_what_the_counter_counts(gpus):
    node = gpus(FAKE_NVML_WATTS="300,75.5")
    assert node.open()["status"] == "works"
    for _ in range(2):
        before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        counters = node.read().counters
        after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for board, watts in ((0, 300), (1, 75.5)):
            assert before_ns / 1000 * watts - 1000 <= counters[key(board)] <= after_ns / 1000 * watts


def test_a_tick_costs_one_call_a_board(gpus):
    node = gpus("0 energy_mj=1\n1 energy_mj=2 mig=3")
    node.open()
    node.ask("count_calls")
    node.read()
    assert node.ask("called") == ["nvmlDeviceGetTotalEnergyConsumption"] * 2


def test_a_counter_that_fell_keeps_its_key(gpus):
    node = gpus("0 energy_mj=5000")
    node.open()
    node.say("0 energy_mj=7")
    assert node.read().counters == {key(0): 7_000}


def test_a_counter_beyond_any_ledger_is_an_error(gpus):
    node = gpus("0 energy_mj=5000\n1 energy_mj=18446744073709551615")
    node.open()
    assert node.read().errors == {key(1): "out of range"}


def test_a_lost_board_stops_no_other_and_comes_back_as_a_new_series(gpus):
    node = gpus("0 energy_mj=5000\n1 energy_mj=100")
    node.open()
    for code, name in ((15, "GpuIsLost"), (16, "ResetRequired")):
        node.say(f"0 error={code}\n1 energy_mj=200")
        for _ in range(2):
            found = node.read()
            assert (list(found.errors.values()), found.counters) == ([name], {key(1): 200_000})
        node.say("0 energy_mj=6000\n1 energy_mj=300")
        found = node.read()
    # It may have been reset meanwhile, to any value: nothing may be subtracted over the loss.
    assert found.counters == {key(0) + "#3": 6_000_000, key(1): 300_000}
    assert found.errors == {}
    assert set(found.zones) == {key(0) + "#3", key(1)}
    assert "new since the board was lost" in found.zones[key(0) + "#3"]["why"]


def test_a_board_comes_back_while_another_is_still_lost(gpus):
    node = gpus("0 energy_mj=1\n1 energy_mj=2\n2 energy_mj=3")
    node.open()
    node.say("0 error=15\n1 error=15\n2 energy_mj=3")
    node.read()
    node.say("0 error=15\n1 energy_mj=2\n2 energy_mj=3")
    found = node.read()
    assert set(found.counters) == {key(1) + "#2", key(2)}
    assert found.errors == {key(0): "GpuIsLost"}


def test_a_board_that_was_lost_at_the_start_is_named_when_it_appears(gpus):
    node = gpus("0 error=15\n1 energy_mj=2")
    assert node.open()["status"] == "works"
    assert node.read().errors == {"nvml:index-0": "GpuIsLost"}
    node.say("0 energy_mj=1\n1 energy_mj=2")
    found = node.read()
    assert found.counters == {key(0): 1_000, key(1): 2_000}
    assert set(found.zones) == {key(0), key(1)}


def test_an_unknown_error_costs_one_reading(gpus):
    node = gpus("0 energy_mj=1")
    node.open()
    node.say("0 error=999")
    found = node.read()
    assert (found.counters, found.errors) == ({}, {key(0): "Unknown"})
    node.say("0 energy_mj=2")
    found = node.read()
    assert (found.counters, found.errors) == ({key(0): 2_000}, {})


def test_an_error_without_a_name_is_told_by_its_number(gpus):
    node = gpus("0 energy_mj=1")
    node.open()
    node.say("0 error=777")
    assert node.read().errors == {key(0): "NVML 777"}


def test_a_library_that_forgot_is_initialised_once_more(gpus):
    node = gpus("0 energy_mj=1\n1 energy_mj=2")
    node.open()
    node.say("library forgets=1\n0 energy_mj=3\n1 energy_mj=4")
    found = node.read()
    assert (found.counters, found.errors) == ({key(0): 3_000, key(1): 4_000}, {})
    node.say("library forgets=2 init_error=9\n0 energy_mj=5\n1 energy_mj=6")
    assert node.read().errors == {key(0): "DriverNotLoaded", key(1): "DriverNotLoaded"}
    node.say("0 energy_mj=7\n1 energy_mj=8")
    assert node.read().counters == {key(0): 7_000, key(1): 8_000}


@pytest.mark.parametrize(("library", "line"), [("new", "no_energy=1"), ("old-driver", "")])
def test_power_is_integrated_to_the_microjoule(gpus, library, line):
    node = gpus(f"0 watts=100 {line}", library)
    node.ask("clock", seconds=1000)
    assert node.open()["status"] == "works"
    assert node.ask("poll_s") == 1.0
    node.say(f"0 watts=300 {line}")
    node.ask("clock", seconds=1001)
    node.ask("poll")
    node.ask("clock", seconds=1001.5)
    found = node.read()
    [zone] = found.zones.values()
    assert re.fullmatch(key(0) + "#[0-9a-f]{8}", zone["key"])
    assert (zone["method"], zone["used"], zone["max_uw"]) == ("integrated", True, 700_000_000)
    assert found.counters == {zone["key"]: 200_000_000 + 150_000_000}


def test_no_line_is_drawn_over_a_hole_in_the_samples(gpus):
    node = gpus("0 watts=100 no_energy=1")
    node.ask("clock", seconds=1000)
    node.open()
    [before] = node.read().counters
    node.ask("clock", seconds=1010)
    assert node.read().counters == {before: 1_000_000_000}
    node.ask("clock", seconds=1020.1)
    [(after, counter_uj)] = node.read().counters.items()
    assert after != before
    assert counter_uj == 0


def test_a_failed_sample_widens_the_step(gpus):
    node = gpus("0 watts=100 no_energy=1")
    node.ask("clock", seconds=1000)
    node.open()
    [zone] = node.read().counters
    node.say("0 error=999")
    node.ask("clock", seconds=1001)
    node.ask("poll")
    assert node.read().errors == {zone: "Unknown"}
    node.say("0 watts=100 no_energy=1")
    node.ask("clock", seconds=1002)
    assert node.read().counters == {zone: 200_000_000}


def test_an_integrated_counter_starts_anew_after_its_board_was_lost(gpus):
    node = gpus("0 watts=100 no_energy=1")
    node.ask("clock", seconds=1000)
    node.open()
    [before] = node.read().counters
    node.say("0 error=15")
    assert node.read().errors == {before: "GpuIsLost"}
    node.say("0 watts=100 no_energy=1")
    node.ask("clock", seconds=1002)
    [(after, counter_uj)] = node.read().counters.items()
    assert (after != before, counter_uj) == (True, 0)


def test_an_integrated_counter_is_another_series_in_another_process(gpus):
    node, other = gpus("0 watts=100 no_energy=1"), gpus("0 watts=100 no_energy=1")
    node.open()
    other.open()
    assert not set(node.read().counters) & set(other.read().counters)


def test_a_board_with_a_counter_is_not_polled(gpus):
    node = gpus("0 energy_mj=1")
    node.open()
    assert node.ask("poll_s") is None


def test_a_hanging_board_costs_one_timeout_and_then_nothing(gpus):
    node = gpus("0 energy_mj=1")
    node.open(read_s=0.5)
    node.say("0 energy_mj=1 hang_ms=2000")
    found = node.read()
    assert (found.counters, found.errors) == ({}, {key(0): "timeout"})
    assert 0.5 <= found.seconds < 1.5
    found = node.read()
    assert found.errors == {key(0): "timeout"}
    assert found.seconds < 0.25
    assert node.devices_of(SLURM_JOB_GPUS="0") == [uuid(0)]
    node.say("0 energy_mj=2")
    found = node.read_when_back()
    assert (found.counters, found.errors) == ({key(0): 2_000}, {})


def test_a_poll_never_waits(gpus):
    node = gpus("0 watts=100 no_energy=1")
    node.open()
    node.say("0 watts=100 no_energy=1 hang_ms=500")
    assert node.ask("poll", wait=False) < 0.25
    assert node.ask("poll", wait=False) < 0.25


def test_a_driver_that_wakes_late_is_waited_for(gpus):
    node = gpus("library init_ms=2000\n0 energy_mj=1")
    opened = node.open(open_s=0.2, read_s=0.5)
    assert opened["status"] == "works"
    assert opened["seconds"] < 0.9
    found = node.read()
    assert found.errors == {"nvml:opening": "timeout"}
    assert found.zones["nvml:opening"]["used"] is False
    found = node.read_when_back()
    assert (found.counters, found.errors, set(found.zones)) == ({key(0): 1_000}, {}, {key(0)})


def test_a_driver_that_wakes_late_only_to_fail_says_why(gpus):
    node = gpus("library init_ms=500 init_error=9\n0 energy_mj=1")
    node.open(open_s=0.1, read_s=0.5)
    node.say("library init_error=9\n0 energy_mj=1")
    assert node.read_when_back().errors == {"nvml:opening": "DriverNotLoaded"}


def test_nobody_waits_for_a_hanging_library_at_the_end(gpus):
    node = gpus("0 energy_mj=1")
    node.open(read_s=0.2)
    node.say("0 energy_mj=1 hang_ms=20000")
    node.read()
    assert node.ask("close") < 0.5
    node.process.stdin.close()
    assert node.process.wait(5) == 0


ORDERED = "0 energy_mj=1\n1 energy_mj=2\n2 energy_mj=3"
CROSSED = "0 energy_mj=1 minor=2\n1 energy_mj=2 minor=1\n2 energy_mj=3 minor=0"


@pytest.mark.parametrize(
    ("boards", "order", "env", "expected"),
    [
        pytest.param(ORDERED, None, {"SLURM_JOB_GPUS": "0,2"}, [0, 2], id="ordinals"),
        pytest.param(ORDERED, None, {"CUDA_VISIBLE_DEVICES": "1"}, [1], id="ordinals-of-cuda"),
        pytest.param(ORDERED, None, {"SLURM_JOB_GPUS": "2", "CUDA_VISIBLE_DEVICES": "0"}, [2], id="slurm-before-cuda"),
        pytest.param(ORDERED, None, {"SLURM_JOB_GPUS": "1,1"}, [1], id="named-twice"),
        pytest.param(ORDERED, None, {"SLURM_JOB_GPUS": "0,3"}, [], id="one-unknown"),
        pytest.param(ORDERED, None, {}, [], id="nothing"),
        pytest.param(ORDERED, None, {"CUDA_VISIBLE_DEVICES": ""}, [], id="empty"),
        pytest.param(ORDERED, None, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, [], id="no-device-files"),
        pytest.param(ORDERED, None, {"SLURM_JOB_GPUS": "-1"}, [], id="negative"),
        pytest.param(ORDERED, None, {"SLURM_JOB_GPUS": "²"}, [], id="not-a-number"),
        pytest.param(ORDERED, None, {"CUDA_VISIBLE_DEVICES": uuid(1)}, [1], id="uuid"),
        pytest.param(ORDERED, None, {"CUDA_VISIBLE_DEVICES": "GPU-0000"}, [], id="beginning-of-several"),
        pytest.param(ORDERED, None, {"CUDA_VISIBLE_DEVICES": "GPU-ffff"}, [], id="board-of-another-node"),
        pytest.param(CROSSED, "file", {"SLURM_JOB_GPUS": "0,1"}, [2, 1], id="files-in-another-order"),
        pytest.param(CROSSED, "autodetect", {"SLURM_JOB_GPUS": "0,1"}, [0, 1], id="autodetect"),
        pytest.param(CROSSED, None, {"SLURM_JOB_GPUS": "0"}, [], id="orders-disagree"),
        pytest.param(CROSSED, None, {"SLURM_JOB_GPUS": "1"}, [1], id="orders-agree-on-this-one"),
    ],
)
def test_a_jobs_boards_are_known_by_uuid(gpus, boards, order, env, expected):
    node = gpus(boards)
    node.open(order=order)
    assert node.devices_of(**env) == [uuid(board) for board in expected]


def test_ordinals_are_not_shifted_by_a_board_that_is_missing(gpus):
    node = gpus("0 energy_mj=1\n1 error=15\n2 energy_mj=3")
    node.open()
    assert node.devices_of(SLURM_JOB_GPUS="2") == [uuid(2)]
    assert node.devices_of(SLURM_JOB_GPUS="1") == []


def test_a_mig_instance_is_named_with_its_board(gpus):
    node = gpus("0 energy_mj=1\n1 energy_mj=2 mig=3")
    node.open()
    first, last = MIG.format(instance=0, board=1), MIG.format(instance=2, board=1)
    visible = f"{first},{last}"
    expected = [f"{first}@{uuid(1)}", f"{last}@{uuid(1)}"]
    assert node.devices_of(CUDA_VISIBLE_DEVICES=visible, SLURM_JOB_GPUS="1,3") == expected
    node.ask("count_calls")
    assert node.devices_of(CUDA_VISIBLE_DEVICES=visible) == expected
    assert node.ask("called") == [], "an instance is looked up once"
    gone = MIG.format(instance=6, board=1)
    assert node.devices_of(CUDA_VISIBLE_DEVICES=f"{first},{gone}") == []


def test_a_mig_instance_of_an_older_driver_names_its_board_itself(gpus):
    node = gpus("0 energy_mj=1 mig=2")
    node.open()
    assert node.devices_of(CUDA_VISIBLE_DEVICES=f"MIG-{uuid(0)}/1/0") == [f"MIG-{uuid(0)}/1/0@{uuid(0)}"]


def test_under_mig_an_ordinal_is_no_board_until_mig_is_off_again(gpus):
    node = gpus("0 energy_mj=1 mig=2\n1 energy_mj=2")
    node.open()
    assert node.devices_of(SLURM_JOB_GPUS="1") == []
    node.say("0 energy_mj=1\n1 energy_mj=2")
    assert node.devices_of(SLURM_JOB_GPUS="1") == [uuid(1)]


@pytest.mark.parametrize("file", ["pynvml/__init__.py", "pynvml.py"])
def test_the_deprecated_pynvml_is_refused_and_never_imported(gpus, tmp_path, file):
    module = tmp_path / "site" / file
    module.parent.mkdir(parents=True)
    module.write_text("raise SystemExit('imported')\n")
    metadata = tmp_path / "site/pynvml-11.5.3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pynvml\nVersion: 11.5.3\n")
    node = gpus("0 energy_mj=1", PYTHONPATH=str(tmp_path / "site"))
    opened = node.open()
    assert opened["status"] == "absent"
    assert f"{module} is not nvidia-ml-py's; pip uninstall pynvml" in opened["reason"]
    assert not node.ask("imported", name="pynvml")


@pytest.mark.parametrize(("has_driver", "status"), [(False, "absent"), (True, "failed")])
def test_a_missing_binding_is_a_failure_only_where_there_is_a_driver(tmp_path, has_driver, status):
    if has_driver:
        (tmp_path / "driver/nvidia").mkdir(parents=True)
    code = (
        "import sys; sys.modules['pynvml'] = None\n"
        "from eco2ai_hpc import meters; from eco2ai_hpc.model import Roots\n"
        f"found = meters.open_all(Roots('/nowhere', {str(tmp_path)!r}), meters.Options())\n"
        "print(*[f'{o.status}: {o.reason}' for o in found if o.name == 'nvml'])"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said == f"{status}: nvidia-ml-py is not installed; pip install 'eco2ai-hpc[gpu]'\n"
