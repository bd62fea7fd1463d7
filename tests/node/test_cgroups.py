"""A job's CPU time, memory and cores, wherever this Slurm puts its cgroup."""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from node_tree import write_tree

from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import cgroups
from eco2ai_hpc.sampler.jobs import Run, end_line, start_line
from eco2ai_hpc.sampler.marks import RunDirectory

SLUID = "sEKNKTV3WPV500"
UNLIMITED_V1 = 9223372036854771712


def v1(parent: str, cpu_ns=61234567000, limit: object = 68719476736) -> dict[str, object]:
    job = f"{parent}/uid_5001/job_7"
    return {
        f"cpuacct/{job}/cpuacct.usage": cpu_ns,
        f"memory/{job}/memory.usage_in_bytes": 4111491072,
        f"memory/{job}/memory.limit_in_bytes": limit,
        f"cpuset/{job}/cpuset.cpus": "0-3,8",
    }


def v2(folder: str, cpu_us=61234567, limit: object = 68719476736) -> dict[str, object]:
    return {
        f"{folder}/cpu.stat": f"usage_usec {cpu_us}\nuser_usec 60000000\nsystem_usec 1234567\nnr_periods 0",
        f"{folder}/memory.current": 4111491072,
        f"{folder}/memory.max": limit,
        f"{folder}/cpuset.cpus.effective": "0-3,8",
    }


LAYOUTS = {
    "v1": (v1("slurm"), None),
    "v1 with several slurmd": (v1("slurm_n1"), None),
    "v2": (v2("system.slice/slurmstepd.scope/job_7"), None),
    "v2 with several slurmd": (v2("system.slice/n1_slurmstepd.scope/job_7"), None),
    "v2 named by SLUID": (v2(f"system.slice/slurmstepd.scope/{SLUID}"), SLUID),
    "v2 named by SLUID with several slurmd": (v2(f"system.slice/n1_slurmstepd.scope/{SLUID}"), SLUID),
    "v2 below a hybrid host's unified": (v2("unified/system.slice/slurmstepd.scope/job_7"), None),
}


def roots(tree: Path) -> Roots:
    return Roots(cgroupfs=str(tree))


@pytest.mark.parametrize(("files", "sluid"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_job_is_found_in_every_layout(tmp_path, files, sluid):
    write_tree(tmp_path, files)
    job = cgroups.find(roots(tmp_path), "n1", 7, 5001, sluid)
    values = (job.cpu_us(), job.memory_bytes(), job.memory_limit_bytes(), job.cpuset())
    assert values == (61234567, 4111491072, 68719476736, "0-3,8")
    job.close()


@pytest.mark.parametrize(("files", "sluid"), LAYOUTS.values(), ids=LAYOUTS)
def test_values_are_those_of_the_moment(tmp_path, files, sluid):
    write_tree(tmp_path, files)
    job = cgroups.find(roots(tmp_path), "n1", 7, 5001, sluid)
    assert job.cpu_us() == 61234567
    write_tree(tmp_path, {name: str(text).replace("61234567", "71234567") for name, text in files.items()})
    assert job.cpu_us() == 71234567
    job.close()


@pytest.mark.parametrize(("files", "sluid"), LAYOUTS.values(), ids=LAYOUTS)
def test_another_job_is_not_this_one(tmp_path, files, sluid):
    write_tree(tmp_path, files)
    assert cgroups.find(roots(tmp_path), "n1", 77, 5001, None) is None
    assert cgroups.find(roots(tmp_path), "n2", 8, 5001, "sEKNKTV3WPV501") is None


@pytest.mark.parametrize(
    "files", [v1("slurm", limit=UNLIMITED_V1), v2("system.slice/slurmstepd.scope/job_7", limit="max")]
)
def test_a_memory_without_limit_has_none(tmp_path, files):
    write_tree(tmp_path, files)
    job = cgroups.find(roots(tmp_path), "n1", 7, 5001, None)
    assert (job.memory_limit_bytes(), job.memory_bytes()) == (None, 4111491072)
    job.close()


def test_what_the_kernel_does_not_offer_is_unknown_and_not_zero(tmp_path):
    write_tree(tmp_path, {"system.slice/slurmstepd.scope/job_7/cpu.stat": "usage_usec 5"})
    job = cgroups.find(roots(tmp_path), "n1", 7, 5001, None)
    assert (job.cpu_us(), job.memory_bytes(), job.memory_limit_bytes(), job.cpuset()) == (5, None, None, None)
    job.close()


@pytest.mark.parametrize("text", ["", "garbage", "-1", "max", "²"])
def test_a_file_that_holds_no_number_is_unknown(tmp_path, text):
    write_tree(tmp_path, v1("slurm") | {"cpuacct/slurm/uid_5001/job_7/cpuacct.usage": text})
    job = cgroups.find(roots(tmp_path), "n1", 7, 5001, None)
    assert job.cpu_us() is None
    job.close()


@pytest.mark.parametrize("sluid", ["../../../etc", "", "a/b", "."])
def test_a_sluid_that_is_none_is_not_looked_for(tmp_path, sluid):
    write_tree(tmp_path, {"cpu.stat": "usage_usec 5", "system.slice/slurmstepd.scope/system/cpu.stat": "usage_usec 5"})
    assert cgroups.find(roots(tmp_path), "n1", 7, 5001, sluid) is None


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"cgroup.controllers": "cpu memory"}, "v2"),
        ({"cpuacct/tasks": ""}, "v1"),
        ({"cpuacct/tasks": "", "unified/cgroup.controllers": ""}, "hybrid"),
        ({}, "none"),
    ],
)
def test_the_probe_names_the_kind(tmp_path, files, kind):
    write_tree(tmp_path, files)
    assert cgroups.kind(roots(tmp_path)) == kind


# A run


@pytest.fixture
def run(node, clock):
    directory = RunDirectory(str(node.run_dir))
    directory.prepare()
    node.mark("start", 7, SLURM_JOB_UID="5001", SLURM_JOB_ACCOUNT=b"\xff", SLURM_JOB_SLUID=SLUID)
    [mark], _ = directory.pending(clock())
    return Run("7@9f3a01c2-1", mark, resumed=False)


def poll(run, node) -> dict:
    run.poll(node.roots, "n1", node.clock())
    return run.entry()


def test_a_run_knows_nothing_before_its_cgroup_is_there(run, node):
    assert poll(run, node) == {}


def test_a_run_keeps_the_last_values_when_its_cgroup_is_gone(run, node):
    tree = Path(node.roots.cgroupfs)
    write_tree(tree, v1("slurm"))
    known = poll(run, node)
    assert known == {"cpu": 61234567, "mem": 4111491072, "cpuset": "0-3,8", "mem_limit": 68719476736}
    run.close()  # as the kernel does: what was open answers no more
    shutil.rmtree(tree / "cpuacct")
    assert poll(run, node) == known
    shutil.rmtree(tree)
    assert poll(run, node) == known


def test_without_a_cpu_controller_memory_and_cores_are_known_all_the_same(run, node):
    files = {name: value for name, value in v1("slurm").items() if not name.startswith("cpuacct")}
    write_tree(Path(node.roots.cgroupfs), files)
    assert poll(run, node) == {"mem": 4111491072, "cpuset": "0-3,8", "mem_limit": 68719476736}


def test_cpu_time_goes_on_when_the_cgroup_comes_back_from_zero(run, node):
    tree = Path(node.roots.cgroupfs)
    write_tree(tree, v1("slurm", cpu_ns=5_000_000_000))
    assert poll(run, node)["cpu"] == 5_000_000
    run.close()
    (tree / "cpuacct").rename(tree / "gone")  # kept, so that its inode number is not given out again
    assert poll(run, node)["cpu"] == 5_000_000
    write_tree(tree, v1("slurm", cpu_ns=1_000_000_000))
    assert poll(run, node)["cpu"] == 6_000_000
    write_tree(tree, v1("slurm", cpu_ns=9_000_000_000))
    assert poll(run, node)["cpu"] == 14_000_000


def test_a_young_run_is_looked_at_often_and_an_old_one_seldom(run, node, clock):
    waits = []
    for age in (0, 10, 60, 300, 3600):
        clock.boot_ns = run.mark.at.boot_ns + age * 1_000_000_000
        poll(run, node)
        waits.append((run.next_poll_ns - clock.boot_ns) / 1e9)
    assert waits == [1.0, 1.0, 1.2, 6.0, 10.0]


def test_lines_of_a_run_hold_text_that_everybody_can_read(run):
    line = start_line(run)
    assert line["env"]["SLURM_JOB_ACCOUNT"] == "\N{REPLACEMENT CHARACTER}"
    assert (line["job"], line["uid"], line["sluid"]) == (7, 5001, SLUID)
    assert end_line(run.key, run.mark)["run"] == run.key


# This machine's own kernel


KERNEL = {
    "v1": ("/sys/fs/cgroup/cpuacct", "slurm_eco2ai-test/uid_5001/job_7"),
    "v2": ("/sys/fs/cgroup", "system.slice/eco2ai-test_slurmstepd.scope/job_7"),
    "hybrid": ("/sys/fs/cgroup/unified", "system.slice/eco2ai-test_slurmstepd.scope/job_7"),
}


@pytest.fixture(params=KERNEL)
def kernel(request):
    """A real cgroup of a job, made by this test and removed after it."""
    base, name = KERNEL[request.param]
    marker = "cgroup.procs" if request.param == "v1" else "cgroup.controllers"
    path = Path(base, name)
    if os.geteuid() != 0 or not Path(base, marker).exists():
        pytest.skip(f"no cgroup {request.param} to write in")
    made = [parent for parent in [path, *path.parents] if not parent.exists()]
    try:
        path.mkdir(parents=True)
    except OSError as error:
        pytest.skip(str(error))
    yield path
    for folder in made:
        with suppress(OSError):  # gone, or somebody else's by now
            folder.rmdir()


def spin_in(cgroup: Path) -> None:
    """Use 50 ms of CPU in a cgroup, and leave it empty."""
    code = "import time\nwhile time.process_time() < 0.05: pass"
    words = ["sh", "-c", f'echo $$ >"{cgroup}/cgroup.procs" && exec python3 -c "$0"', code]
    subprocess.run(words, check=True, timeout=20)
    time.sleep(0.01)


def test_a_cgroup_that_the_kernel_removes_leaves_its_last_value_and_one_that_returns_adds_to_it(kernel, run, clock):
    here = Roots()

    def cpu_us():
        run.poll(here, "eco2ai-test", clock())
        return run.cpu_us

    cpu_us()
    spin_in(kernel)
    first = cpu_us()
    assert first >= 50_000
    kernel.rmdir()
    assert cpu_us() == first
    kernel.mkdir()
    spin_in(kernel)
    assert cpu_us() >= first + 50_000
    kernel.rmdir()
    assert cpu_us() >= first + 50_000
