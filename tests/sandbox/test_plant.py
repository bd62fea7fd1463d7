"""The power plant alone, on a folder that looks like the cgroups of a node: no Slurm, no root."""

import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import truth

HERE = Path(__file__).parent
RANGE_UJ = {
    "intel-rapl:0": 8999999900,
    "intel-rapl:1": 8999999900,
    "intel-rapl:0:0": 7999999900,
    "intel-rapl:1:0": 7999999900,
}
CPUS = 4

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


class Plant:
    def __init__(self, lab: Path, binary: Path):
        self.lab = lab
        self.cgroup = lab / "cgroup/n1"
        self.cgroup.mkdir(parents=True)
        command = [binary, "-l", lab, "-d", lab / "cgroup/%", "-c", str(CPUS), "-s", "2", "n1"]
        self.process = subprocess.Popen(command)
        self.proc = lab / "n1/plant/proc"
        self.powercap = lab / "n1/plant/sys/class/powercap"
        wait_for(lambda: (self.proc / "cpuinfo").exists() and self.stat("cpu")[3] > 0)

    def stop(self) -> truth.Log:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(5) == 0
        return truth.Log(self.lab / "truth/n1.log")

    def use(self, job: int, cpu_ns: list[int], pid: int | None = None):
        """Says that a job has used so much of each CPU, as cgroup v1 does."""
        directory = self.cgroup / f"uid_5001/job_{job}"
        usage = directory / "cpuacct.usage_percpu"
        text = "".join(f"{ns:020} " for ns in cpu_ns)
        if usage.exists():  # the plant holds it open: never empty, always the same length
            with usage.open("r+") as file:
                file.write(text)
            return
        new = self.lab / "new"
        new.mkdir()
        (new / "cgroup.procs").write_text(f"{pid}\n" if pid else "")
        (new / usage.name).write_text(text)
        directory.parent.mkdir(exist_ok=True)
        new.rename(directory)

    def end(self, job: int):
        shutil.rmtree(self.cgroup / f"uid_5001/job_{job}")

    def counter(self, zone: str) -> int:
        return int((self.powercap / zone / "energy_uj").read_bytes())

    def stat(self, cpu: str) -> list[int]:
        lines = (self.proc / "stat").read_text().splitlines()
        return next([int(cell) for cell in line.split()[1:]] for line in lines if line.split()[0] == cpu)


def wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 5 s in vain")


@pytest.fixture(scope="session")
def binary(tmp_path_factory):
    path = tmp_path_factory.mktemp("plant") / "eco2ai-plant"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, HERE / "plant.c"], check=True)
    return path


@pytest.fixture
def plant(tmp_path, binary):
    plant = Plant(tmp_path, binary)
    yield plant
    plant.stop()


def test_idle_energy_system_work_and_jobs_add_up_to_the_counters_exactly(plant):
    plant.use(7, [0] * CPUS)
    plant.use(8, [0] * CPUS)
    for step in range(20):
        plant.use(7, [step * 10_000_000] * CPUS)
        plant.use(8, [0, 0, step * 5_000_000, 0])
        time.sleep(0.01)
    plant.end(8)
    time.sleep(0.05)
    log = plant.stop()
    assert len(log.times) > 20
    for begin, end in itertools.pairwise(log.times):
        for pool in truth.POOLS:
            owners = sum(log.between(kind, pool, begin, end) for kind in ("idle", "system"))
            owners += sum(log.job_between(job, begin, end)[pool] for job in (7, 8))
            assert log.between("energy", pool, begin, end) == owners
    assert log.job_between(7, log.times[0], log.times[-1])["use"] == 19 * 10_000 * CPUS
    assert log.job_between(8, log.times[0], log.times[-1])["use"] == 19 * 5_000


def test_counters_show_the_truth_and_wrap(plant):
    first = {zone: plant.counter(zone) for zone in RANGE_UJ}
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    plant.use(7, [0] * CPUS)
    time.sleep(0.1)
    plant.use(7, [250_000_000_000] * CPUS)  # 250 s of every CPU at once: some 17 kJ a package
    time.sleep(0.1)
    last = {zone: plant.counter(zone) for zone in RANGE_UJ}
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    log = plant.stop()
    for pool, zones in (("package", ("intel-rapl:0", "intel-rapl:1")), ("dram", ("intel-rapl:0:0", "intel-rapl:1:0"))):
        shown = sum(last[zone] - first[zone] for zone in zones)
        wrapped = RANGE_UJ[zones[0]]
        missing = log.between("energy", pool, began, ended) - shown
        assert missing > wrapped
        assert min(missing % wrapped, -missing % wrapped) < 2e6  # 10 ms of the two moments' reading


def test_no_reader_ever_sees_a_torn_number(plant):
    """A torn number would be off by at least a digit of 10 J: so much passes in 0.4 s, not between two readings."""
    files = [os.open(plant.powercap / zone / "energy_uj", os.O_RDONLY) for zone in RANGE_UJ]
    before = [int(os.pread(fd, 64, 0)) for fd in files]
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        for i, fd in enumerate(files):
            text = os.pread(fd, 64, 0)
            assert len(text) == 11
            now = int(text)
            assert 0 <= now - before[i] < 5_000_000
            before[i] = now


def test_zones_are_found_flat_and_nested_as_in_the_kernel(plant):
    assert {path.name for path in plant.powercap.iterdir()} == {"intel-rapl", *RANGE_UJ}
    assert all(path.is_symlink() for path in plant.powercap.iterdir())
    assert (plant.powercap / "intel-rapl/intel-rapl:1/intel-rapl:1:0/name").read_text() == "dram\n"
    for zone, wrap in RANGE_UJ.items():
        assert int((plant.powercap / zone / "max_energy_range_uj").read_text()) == wrap
        assert int((plant.powercap / zone / "constraint_0_max_power_uw").read_text()) * 30 < 0.8 * wrap


def test_procfs_counts_the_nodes_own_jobs_and_idle_time(plant):
    plant.use(7, [0] * CPUS)
    time.sleep(0.1)
    plant.use(7, [0, 0, 3_000_000_000, 0])
    wait_for(lambda: plant.stat("cpu2")[0] == 300)
    assert plant.stat("cpu")[0] == 300
    assert plant.stat("cpu0")[0] == 0
    sockets = [line.split()[-1] for line in (plant.proc / "cpuinfo").read_text().splitlines() if "physical id" in line]
    assert sockets == ["0", "0", "1", "1"]
    uptime = float((plant.proc / "uptime").read_text().split()[0])
    assert abs(uptime - time.clock_gettime(time.CLOCK_BOOTTIME)) < 0.5
    assert (plant.proc / "sys/kernel/random/boot_id").read_text() == Path("/proc/sys/kernel/random/boot_id").read_text()


def test_a_requeued_job_is_a_second_run_from_zero(plant):
    plant.use(7, [0] * CPUS)
    time.sleep(0.05)
    plant.use(7, [40_000_000] * CPUS)
    time.sleep(0.05)
    plant.end(7)
    time.sleep(0.1)
    plant.use(7, [0] * CPUS)
    time.sleep(0.05)
    plant.use(7, [20_000_000] * CPUS)
    time.sleep(0.05)
    log = plant.stop()
    assert {key: rows[-1][2] for key, (_, rows) in log.jobs.items()} == {"7.1": 160_000, "7.2": 80_000}


def test_the_same_cpu_time_costs_more_as_burn_heavy_and_less_beside_others(plant, tmp_path):
    heavy = tmp_path / "burn-heavy"
    shutil.copy(shutil.which("sleep"), heavy)
    process = subprocess.Popen([heavy, "30"])
    try:
        energy = {}
        for name, job, pid, cpus in (("light", 7, None, 1), ("full", 8, None, CPUS), ("heavy", 9, process.pid, 1)):
            for step in range(50):
                plant.use(job, [step * 10_000_000 if cpu < cpus else 0 for cpu in range(CPUS)], pid)
                time.sleep(0.01)
            plant.end(job)
            time.sleep(0.3)
            energy[name] = job
        log = plant.stop()
        joules = {}
        for name, job in energy.items():
            values = log.job_between(job, log.times[0], log.times[-1])
            joules[name] = values["package"] / values["use"]
    finally:
        process.kill()
        process.wait()
    assert joules["full"] < joules["light"] < joules["heavy"]
