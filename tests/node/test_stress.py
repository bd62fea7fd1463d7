"""The spool under stress: disks that are full, frozen, broken or gone, clocks that are set, a month uncollected.

What is proven, is proven with the ledger: the energy that the counters counted is the energy in the books.
"""

import errno
import fcntl
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_books import Books
from node_tree import BOOT_ID, SECOND, Clock, read_lines

from eco2ai_hpc import spool
from eco2ai_hpc.errors import ConfigError
from eco2ai_hpc.sampler import backlog
from eco2ai_hpc.sampler.backlog import Backlog, entry
from eco2ai_hpc.sampler.evidence import AS_USUAL, Evidence, Keeping
from eco2ai_hpc.sampler.worker import PATIENCE_S, Worker, owner_of

NOBODY = 65534
ZONES = {
    "rapl:package-0": {"domain": "package", "wrap": 65_532_610_987, "max_uw": 280_000_000, "used": True, "why": ""},
    "rapl:package-0/dram": {"domain": "dram", "wrap": 65_712_999_613, "max_uw": None, "used": True, "why": ""},
    "rapl:package-0/core": {"domain": "core", "wrap": 65_532_610_987, "max_uw": None, "used": False, "why": ""},
    "nvml:GPU-1b2c": {"domain": "gpu", "wrap": None, "max_uw": 700_000_000, "used": True, "why": ""},
}
WATTS = {"rapl:package-0": (60, 279), "rapl:package-0/dram": (5, 40), "nvml:GPU-1b2c": (30, 699)}


def header(**other) -> dict:
    return {
        "k": "header", "v": 1, "cluster": "lab", "node": "n1", "boot": BOOT_ID, "sampler": "9f3a01c2",
        "interval_s": 30.0, "software": "test", "cpus": 64, "sockets": 1, "mem_mib": 257000, "cpu_model": "imaginary",
        "manager": "slurm", "zones": ZONES,
    } | other  # fmt: skip


class Plant:
    """A node whose counters run and wrap; knows what they truly counted."""

    def __init__(self, directory: Path, clock: Clock, *, keeping: Keeping = AS_USUAL, zones: dict = ZONES) -> None:
        self.clock = clock
        self.zones = zones
        self.directory = directory / "lab" / "n1"
        self.evidence = Evidence(str(self.directory), header(zones=zones), keeping)
        self._random = random.Random(1)
        self._total_uj = dict.fromkeys(WATTS, 0)
        self._first_uj: dict[str, int] | None = None
        self._jobs = 0
        self.ticks = 0

    def tick(self, seconds: float = 30, why: str = "clock", **more) -> None:
        """So much later."""
        now = self.clock.go_on(seconds)
        for zone, (least, most) in WATTS.items():
            self._total_uj[zone] += round(self._random.uniform(least, most) * 1e6 * seconds)
        self._first_uj = self._first_uj or dict(self._total_uj)
        counters = {zone: total % (self.zones[zone]["wrap"] or 1 << 62) for zone, total in self._total_uj.items()}
        counters["rapl:package-0/core"] = counters["rapl:package-0"] // 2
        line = {
            "k": "tick", "t": now.utc(), "bt": now.boot_ns, "why": why, "c": counters,
            "busy": {"0": now.boot_ns // 2000}, "mem": 81604378624, "jobs": {},
        }  # fmt: skip
        self.evidence.tick(line | more, now)
        self.ticks += 1

    def job(self) -> None:
        """One that starts now and ends soon."""
        self._jobs += 1
        now = self.clock()
        mark = {
            "run": f"{self._jobs}@9f3a01c2-{self._jobs}", "job": self._jobs, "uid": 5001,
            "env": {"SLURM_JOB_ID": str(self._jobs), "SLURM_JOB_CPUS_PER_NODE": "4", "SLURM_NODELIST": "n1"},
        }  # fmt: skip
        self.evidence.edge({"k": "job_start", "t": now.utc(), "bt": now.boot_ns} | mark, now)
        self.tick(1, "start")
        self.tick(10, "end")
        now = self.clock()
        self.evidence.edge({"k": "job_end", "t": now.utc(), "bt": now.boot_ns, "why": "epilog"} | mark, now)

    def truth_uj(self) -> dict[str, int]:
        return {zone: total - self._first_uj[zone] for zone, total in self._total_uj.items()}

    def kept(self) -> list[dict]:
        return [line for line in read_lines(self.directory) if line["k"] == "tick"]


def booked_uj(books: Books) -> dict[str, int]:
    """What the ledger says of each counter; an unknown interval would be a null that is counted here."""
    books.collect()
    rows = books.rows(
        "select zone, cast(sum(energy_uj) as bigint) as uj, count(*) - count(energy_uj) as unknown"
        " from interval_energy group by zone"
    )
    assert {row["zone"]: row["unknown"] for row in rows} == dict.fromkeys(WATTS, 0)
    assert books.violations() == {}
    return {row["zone"]: row["uj"] for row in rows}


@pytest.fixture
def books(tmp_path):
    return Books(tmp_path)


@pytest.fixture
def ext4(tmp_path):
    """A file system on a file, that can be frozen and broken; skipped where mount(8) is not allowed."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("may not mount")
    broken = Ext4(tmp_path)
    yield broken
    broken.thaw()
    broken.unmount()


class Ext4:
    _SHUTDOWN, _WITHOUT_LOG = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mount"
        self._image = directory / "image"
        self._is_frozen = False
        self.path.mkdir()
        with open(self._image, "wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(self._image)], check=True)
        self.mount()

    def mount(self) -> None:
        if subprocess.run(["mount", "-o", "loop", self._image, self.path], capture_output=True).returncode != 0:
            pytest.skip("may not mount")

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True, check=False)

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", str(self.path)], check=True)
        self._is_frozen = True

    def thaw(self) -> None:
        if self._is_frozen:
            subprocess.run(["fsfreeze", "--unfreeze", str(self.path)], check=True)
            self._is_frozen = False

    def die(self) -> None:
        """From now on everything is an input/output error."""
        descriptor = os.open(self.path, os.O_RDONLY)
        fcntl.ioctl(descriptor, self._SHUTDOWN, self._WITHOUT_LOG.to_bytes(4, "little"))
        os.close(descriptor)

    def turn_read_only(self) -> None:
        """As ext4 does when it finds an error."""
        subprocess.run(["mount", "-o", "remount,abort", str(self.path)], check=True, capture_output=True)


# Thinning


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.sets(st.sampled_from(sorted(ZONES)))), min_size=1, max_size=60),
    st.integers(0, 30),
)
def test_thinning_never_makes_an_interval_ambiguous(steps, taken_after):
    """Whatever reads fail: what could be told apart with all the ticks, can be with those that are kept."""
    limits = backlog.longest_ns(ZONES)
    waiting = Backlog()
    waiting.expect(ZONES)
    at_ns, every, kept = 0, [], []
    for number, (seconds, failed) in enumerate(steps):
        at_ns += seconds * SECOND
        line = {"k": "tick", "bt": at_ns, "c": {zone: 0 for zone in ZONES if zone not in failed}}
        every.append(entry(line, {}))
        waiting.add(every[-1])
        if number == taken_after:
            kept += waiting.take(thinned=True)
    waiting.thin()
    kept += waiting.take()
    assert kept[-1] == every[-1]
    for zone, limit in limits.items():
        longest = max(limit, *spans(every, zone), 0)
        assert all(span <= longest for span in spans(kept, zone))
        assert last(kept, zone) == last(every, zone), "the energy up to the last reading is there"


def spans(entries, zone) -> list[int]:
    return [after - before for before, after in pairwise([one.boot_ns for one in entries if zone in one.zones])]


def last(entries, zone) -> int:
    return max((one.boot_ns for one in entries if zone in one.zones), default=0)


def test_limits_stay_within_what_the_reader_takes_for_ambiguous():
    for key, limit in backlog.longest_ns(ZONES).items():
        zone = ZONES[key]
        assert limit <= 900 * SECOND
        if zone["wrap"]:
            bound_uj = (zone["max_uw"] or 250_000_000) * (limit + 20_000_000) // SECOND
            assert bound_uj * 5 // 4 < zone["wrap"], "sql/3_interval/interval_energy.sql"


# Full disks


@pytest.mark.parametrize("memory", [8 << 20, 200_000], ids=["whole", "thinned"])
def test_hours_of_wraps_on_a_full_disk_are_in_the_books_to_the_microjoule(disk, clock, books, monkeypatch, memory):
    monkeypatch.setattr(backlog, "WAITING_BYTES", memory)
    books.spool = disk.path
    plant = Plant(disk.path, clock)
    plant.tick()
    disk.fill()
    for _ in range(6):
        for _ in range(114):
            plant.tick()
        plant.job()
    assert plant.evidence.last_error.startswith(os.strerror(errno.ENOSPC))
    assert plant._total_uj["rapl:package-0"] > 40 * ZONES["rapl:package-0"]["wrap"]
    disk.free()
    subprocess.run(["mount", "-o", "remount,size=2m", str(disk.path)], check=True)
    plant.tick()
    plant.evidence.seal()
    assert booked_uj(books) == plant.truth_uj()
    assert books.rows("select count(distinct run_key) as runs from job_mark") == [{"runs": 6}]
    assert (len(plant.kept()) < plant.ticks) == (memory < 8 << 20)
    assert [line["reason"] for line in read_lines(plant.directory) if line["k"] == "gap"] == [os.strerror(errno.ENOSPC)]


def test_a_disk_that_fills_again_and_again_costs_no_energy(disk, clock, books, monkeypatch):
    monkeypatch.setattr(backlog, "WAITING_BYTES", 20_000)
    books.spool = disk.path
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk.path)], check=True)
    plant = Plant(disk.path, clock)
    plant.tick()
    for _ in range(5):
        disk.fill()
        for _ in range(60):
            plant.tick()
        disk.free()
        for number in range(12):
            plant.tick()
            if number % 5 == 0:
                plant.evidence.seal()
    plant.evidence.seal()
    assert booked_uj(books) == plant.truth_uj()


def test_unconfirmed_evidence_stays_whatever_the_disk_does(disk, clock):
    plant = Plant(disk.path, clock)
    plant.tick()
    plant.evidence.seal()
    [path] = spool.sealed_segments(str(disk.path))
    before = Path(path).read_bytes()
    disk.fill()
    for _ in range(500):
        plant.tick(60)
    assert Path(path).read_bytes() == before


def test_memory_is_bounded_while_a_disk_is_full_for_weeks(disk, clock, monkeypatch):
    monkeypatch.setattr(backlog, "WAITING_BYTES", 100_000)
    plant = Plant(disk.path, clock)
    disk.fill()
    for _ in range(3000):
        plant.tick(90)
    waiting = [*plant.evidence._batch, *plant.evidence._backlog._ticks]
    assert sum(one.size for one in waiting) <= 100_000
    assert max(one.boot_ns for one in waiting) == clock.boot_ns, "the newest are kept: their jobs still run"


# Disks that hang


def test_a_frozen_disk_delays_one_tick_by_a_second_and_none_after_it(ext4, clock, books):
    books.spool = ext4.path
    plant = Plant(ext4.path, clock)
    plant.tick()
    ext4.freeze()
    took = []
    for _ in range(200):
        began = time.monotonic()
        plant.tick()
        plant.evidence.seal()
        plant.evidence.flush()
        took.append(time.monotonic() - began)
    ext4.thaw()
    print(f"first {took[0]:.3f} s, then at most {max(took[1:]) * 1000:.2f} ms")
    assert took[0] < PATIENCE_S + 0.5
    assert max(took[1:]) < 0.1
    assert plant.evidence._worker.wait(10)
    plant.tick()
    plant.evidence.seal()
    assert len(plant.kept()) == plant.ticks, "nothing was lost: all of it waited"
    assert booked_uj(books) == plant.truth_uj()


def test_a_disk_that_hangs_for_days_keeps_what_the_energy_needs(tmp_path, clock, monkeypatch):
    """The write that hangs is simulated, so that the clock may run."""
    monkeypatch.setattr(backlog, "WAITING_BYTES", 200_000)
    hangs = threading.Event()
    plant = Plant(tmp_path, clock, keeping=Keeping(patience_s=0.05))
    plant.tick()
    write = os.write

    def slow(descriptor, data):
        hangs.wait(30)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", slow)
    for _ in range(600):
        plant.tick()
    monkeypatch.setattr(os, "write", write)
    hangs.set()
    assert plant.evidence._worker.wait(10)
    plant.tick()
    gaps = [line["reason"] for line in read_lines(plant.directory) if line["k"] == "gap"]
    assert gaps == ["writing took too long"]
    kept = plant.kept()
    assert len(kept) < 400
    thinned = [after["bt"] - before["bt"] for before, after in pairwise(kept)]
    assert max(thinned) <= backlog.longest_ns(ZONES)["rapl:package-0"]


def test_a_sampler_ends_within_seconds_on_a_disk_that_hangs(ext4, clock, monkeypatch):
    monkeypatch.setattr("eco2ai_hpc.sampler.evidence.CLOSING_PATIENCE_S", 0.2)
    plant = Plant(ext4.path, clock)
    plant.tick()
    ext4.freeze()
    began = time.monotonic()
    plant.tick(why="stop")
    plant.evidence.close(clock())
    assert time.monotonic() - began < PATIENCE_S + 1
    ext4.thaw()
    assert plant.evidence._worker.wait(10)
    plant.evidence.close(clock())
    [path] = spool.sealed_segments(str(ext4.path))
    assert spool.read_segment(path).intact
    assert [line["why"] for line in plant.kept()] == ["clock", "stop"]


def test_many_edges_on_a_slow_disk_are_late_once_and_not_each():
    worker = Worker(patience_s=0.2)
    began = time.monotonic()
    for _ in range(20):
        worker.do(lambda: time.sleep(0.15))
    assert time.monotonic() - began < 1
    assert worker.wait(1)


def test_a_bug_in_the_thread_is_not_silent():
    worker = Worker()
    with pytest.raises(ZeroDivisionError):
        worker.do(lambda: 1 // 0)
    assert worker.do(lambda: None)


# Disks that break, and directories that go


@pytest.mark.parametrize("breaks", ["die", "turn_read_only"])
def test_a_file_system_that_broke_and_was_mounted_again_is_gone_on_with(ext4, clock, books, breaks):
    books.spool = ext4.path
    plant = Plant(ext4.path, clock)
    plant.tick()
    plant.job()
    plant.evidence.flush()
    plant.tick()
    getattr(ext4, breaks)()
    for _ in range(20):
        plant.tick()
        plant.evidence.flush()
        plant.evidence.seal()
    assert plant.evidence.last_error
    ext4.unmount()
    ext4.mount()
    plant.tick()
    plant.evidence.seal()
    assert booked_uj(books) == plant.truth_uj()
    assert books.rows("select count(distinct run_key) as runs from job_mark") == [{"runs": 1}]
    assert not list(plant.directory.glob("*.part")), "the broken segment was sealed too"


FAILURES = [
    *(
        (call, number)
        for number in (errno.EIO, errno.EDQUOT)
        for call in ("open", "fsync", "fdatasync", "rename", "stat")
    ),
    *(("write", number) for number in (errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE)),
    ("ftruncate", errno.EIO),
    ("mkdir", errno.EACCES),
    ("scandir", errno.EACCES),
]


@pytest.mark.parametrize(("call", "number"), FAILURES, ids=lambda value: errno.errorcode.get(value, value))
def test_no_failing_call_costs_energy_or_a_job(tmp_path, clock, books, monkeypatch, call, number):
    plant = Plant(books.spool, clock)
    plant.tick()
    plant.job()
    original = getattr(os, call)
    fails = random.Random(7)

    def sometimes(*arguments, **named):
        if threading.current_thread().name == "spool" and fails.random() < 0.5:
            raise OSError(number, os.strerror(number))
        return original(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, sometimes)
        for step in range(30):
            plant.tick()
            plant.job()
            plant.evidence.flush()
            if step % 4 == 3:
                plant.evidence.seal()
    plant.tick()
    plant.evidence.seal()
    plant.evidence.recover()
    assert not list(plant.directory.glob("*.part"))
    assert booked_uj(books) == plant.truth_uj()
    assert books.rows("select count(distinct run_key) as runs from job_mark") == [{"runs": 31}]
    assert books.rows("select count(*) as broken from segment where not intact") == [{"broken": 0}]


def test_a_spool_that_is_removed_and_comes_back_costs_only_what_was_sealed(books, clock):
    plant = Plant(books.spool, clock)
    plant.tick()
    plant.job()
    shutil.rmtree(books.spool)
    plant.tick()
    books.spool.mkdir(exist_ok=True)
    plant.tick()
    assert "was removed" in plant.evidence.last_error
    plant.evidence.seal()
    assert plant.evidence.last_error == "", "all is well again"
    assert booked_uj(books) == plant.truth_uj()
    assert books.rows("select count(distinct run_key) as runs from job_mark") == [{"runs": 1}]


def test_a_spool_that_is_removed_just_before_the_seal_is_written_again(books, clock):
    plant = Plant(books.spool, clock)
    plant.tick()
    shutil.rmtree(plant.directory)
    plant.evidence.seal()
    plant.tick()
    plant.evidence.seal()
    assert booked_uj(books) == plant.truth_uj()


def test_a_spool_that_was_moved_away_and_back_is_counted_once(books, clock):
    """Some lines are then in two segments."""
    plant = Plant(books.spool, clock)
    plant.tick()
    plant.job()
    plant.directory.rename(books.spool / "away")
    plant.tick()
    shutil.copytree(books.spool / "away", plant.directory, dirs_exist_ok=True)
    shutil.rmtree(books.spool / "away")
    plant.tick()
    plant.evidence.seal()
    assert len(list(spool.sealed_segments(str(books.spool)))) == 2
    assert len(plant.kept()) > plant.ticks
    assert booked_uj(books) == plant.truth_uj()


# Clocks


def test_a_clock_that_is_set_by_hours_changes_neither_names_nor_order_nor_energy(books, clock):
    plant = Plant(books.spool, clock)
    for hours in (0, 5, -9, 26, -26, 0):
        clock.set_wall(hours * 3600)
        for _ in range(4):
            plant.tick()
        plant.job()
        plant.evidence.seal()
    segments = [spool.read_segment(path) for path in spool.sealed_segments(str(books.spool))]
    assert [segment.header["seq"] for segment in segments] == list(range(6))
    assert [segment.header["prev"] for segment in segments][1:] == [f"sha256:{one.sha256}" for one in segments][:-1]
    bts = [line["bt"] for line in plant.kept()]
    assert bts == sorted(bts)
    assert booked_uj(books) == plant.truth_uj()


# Somebody else's directory


ROOT_SQUASHED = """
import sys
from eco2ai_hpc.sampler.evidence import Evidence, Keeping
from eco2ai_hpc.sampler.host import Moment
owner = (int(sys.argv[2]),) * 2 if len(sys.argv) > 2 else None
header = dict(k="header", v=1, cluster="lab", node="n1", boot="2f0c6a52", sampler="9f3a01c2", seq=0, zones={})
evidence = Evidence(sys.argv[1] + "/lab/n1", header, Keeping(owner=owner))
evidence.tick({"k": "tick", "bt": 1}, Moment.now())
print(open("/proc/self/environ", "rb").read(1) and evidence.last_error)
evidence.close(Moment.now())
"""


def root_squashed(*arguments: str) -> str:
    """Root without its privilege over files: what it is on an NFS export with root_squash."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv(1)")
    powers = "-dac_override,-dac_read_search,-fowner"
    command = ["setpriv", "--bounding-set", powers, "--inh-caps", "-all", sys.executable, "-c", ROOT_SQUASHED]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def anothers(tmp_path_factory):
    """A spool that only its owner may enter, below directories that everybody may."""
    directory = Path("/tmp") / f"eco2ai-spool-{os.getpid()}"
    directory.mkdir(mode=0o700)
    with suppress(PermissionError):
        os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


def test_a_spool_on_a_root_squashed_file_system_is_written_as_its_owner(anothers):
    assert root_squashed(str(anothers)).startswith(os.strerror(errno.EACCES))
    assert list(anothers.iterdir()) == []
    assert root_squashed(str(anothers), str(NOBODY)) == ""
    [path] = spool.sealed_segments(str(anothers))
    about = os.stat(path)
    assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (NOBODY, NOBODY, 0o600)
    assert spool.read_segment(path).lines == 2


def test_only_the_writing_thread_is_the_service_user(anothers):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    worker, seen = Worker(owner=(NOBODY, NOBODY)), []
    worker.do(lambda: seen.append(Path("/proc/thread-self/status").read_text()))
    fs_user = next(line.split()[4] for line in seen[0].splitlines() if line.startswith("Uid:"))
    assert fs_user == str(NOBODY)
    assert "CapEff:\t" in seen[0]
    assert os.geteuid() == 0
    with open("/etc/shadow", "rb"):
        pass
    with pytest.raises(PermissionError):
        worker.do(lambda: os.close(os.open("/etc/shadow", os.O_RDONLY)))


def test_who_may_not_act_as_the_service_user_is_told_at_the_start(anothers, clock):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv(1)")
    code = (
        "from eco2ai_hpc.sampler.evidence import *\n"
        "Evidence('/x', {'zones': {}}, Keeping(owner=(65534, 65534))).prepare()"
    )
    powerless = ["setpriv", "--bounding-set", "-setuid,-setgid", "--inh-caps", "-all", sys.executable, "-c", code]
    told = subprocess.run(powerless, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "cannot act as uid 65534" in told.stderr.splitlines()[-1]
    Evidence(str(anothers), header(), Keeping(owner=(NOBODY, NOBODY))).prepare()


def test_a_service_user_is_named_and_must_exist():
    assert owner_of("nobody") == (NOBODY, NOBODY)
    assert owner_of(None) is None
    with pytest.raises(ConfigError, match="no user 'mallory'"):
        owner_of("mallory")


# A month without a collector


def full_header(zones: int) -> dict:
    kinds = [
        {"domain": "package", "wrap": 262143328850, "max_uw": 280000000, "used": True, "why": "a package counts once"},
        {"domain": "core", "wrap": 262143328850, "max_uw": None, "used": False, "why": "inside package-0"},
    ]
    return header(zones={f"rapl:package-{number}": kinds[number % 2] for number in range(zones)})


def full_tick(clock: Clock, zones: int, jobs: int) -> dict:
    run = {"cpu": 61234567890, "mem": 4111491072, "cpuset": "0-15,64-79", "mem_limit": 68719476736}
    now = clock()
    return {
        "k": "tick", "t": now.utc(), "bt": now.boot_ns, "why": "clock",
        "c": {f"rapl:package-{number}": now.boot_ns // 7 % 262143328850 for number in range(zones)},
        "busy": {"0": now.boot_ns // 2000, "1": now.boot_ns // 2100}, "mem": 81604378624,
        "jobs": {f"{4711000 + job}@9f3a01c2-{job}": run for job in range(jobs)},
    }  # fmt: skip


@pytest.mark.parametrize(("zones", "jobs", "most_mib"), [(12, 64, 700), (4, 2, 80)])
def test_what_a_month_takes_is_what_the_page_says(clock, zones, jobs, most_mib):
    """docs/spool-format.md states these figures."""
    tick_bytes = len(spool.encode(full_tick(clock, zones, jobs)))
    day_bytes = 2880 * tick_bytes + 288 * len(spool.encode(full_header(zones)))
    print(f"{zones} zones, {jobs} jobs: {tick_bytes} bytes a tick, {day_bytes / 1e6:.2f} MB a day")
    page = (Path(__file__).parents[2] / "docs" / "spool-format.md").read_text()
    assert f"| {zones} zones, {jobs} jobs | {round(tick_bytes, -2)} bytes | {day_bytes / 1e6:.1f} MB |" in page
    assert 30 * day_bytes < most_mib << 20


def test_a_month_without_a_collector_stays_within_the_bound_and_costs_no_energy(books, clock):
    """Scaled: 30 days of ticks 5 minutes apart against 3 MiB, of counters that come round within 16 minutes."""
    bound = 3 << 20
    wide = {key: zone | {"wrap": zone["wrap"] and 4 * zone["wrap"]} for key, zone in ZONES.items()}
    plant = Plant(books.spool, clock, keeping=Keeping(max_bytes=bound), zones=wide)
    plant.tick()
    for number in range(30 * 24 * 12):
        plant.tick(300)
        if number % 40 == 39:
            plant.evidence.seal()
        if number % 144 == 143:
            plant.job()
    plant.evidence.close(clock())
    used = sum(path.stat().st_blocks * 512 for path in plant.directory.iterdir())
    lines = read_lines(plant.directory)
    gaps = [line["reason"] for line in lines if line["k"] == "gap"]
    kept = [line for line in lines if line["k"] == "tick"]
    print(f"{used / (1 << 20):.2f} MiB of 3, {len(kept)} of {plant.ticks} ticks, {gaps}")
    assert bound // 2 < used <= bound
    assert [gap.partition(": ")[2] for gap in gaps] == ["zones that do not count are left out", "ticks are thinned"]
    assert len({line["run"] for line in lines if line["k"] == "job_end"}) == 60
    assert booked_uj(books) == plant.truth_uj()


@pytest.fixture
def at_its_bound(tmp_path, clock):
    plant = Plant(tmp_path, clock, keeping=Keeping(max_bytes=160_000))
    while "bound" not in plant.evidence.last_error:
        plant.tick(170)
    return plant


def ended_jobs(plant: Plant) -> int:
    return len([line for line in read_lines(plant.directory) if line["k"] == "job_end"])


def test_at_the_bound_job_edges_go_on_and_ticks_wait(at_its_bound):
    ticks = len(at_its_bound.kept())
    for _ in range(10):
        at_its_bound.job()
    assert len(at_its_bound.kept()) == ticks
    assert ended_jobs(at_its_bound) == 10
    for _ in range(30):
        at_its_bound.job()
    assert 10 < ended_jobs(at_its_bound) < 40, "and at last they wait too"
    assert sum(path.stat().st_size for path in at_its_bound.directory.iterdir()) <= 160_000 + 1000


def test_a_collector_that_comes_back_makes_room_and_all_that_waited_is_written(at_its_bound, clock):
    for _ in range(40):
        at_its_bound.job()
    at_its_bound.evidence.seal()
    before = ended_jobs(at_its_bound)
    [path] = spool.sealed_segments(str(at_its_bound.directory))
    spool.confirm(path, spool.read_segment(path).sha256)
    os.utime(path, ns=(0, 0))
    at_its_bound.tick(3600)
    assert not Path(path).exists(), "it was confirmed, and sealed more than a day ago"
    assert ended_jobs(at_its_bound) == 40 - before
    at_its_bound.tick()
    assert at_its_bound.kept()[-1]["bt"] == clock.boot_ns
