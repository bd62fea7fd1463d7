"""What a job used after the last look at its cgroup is not lost: the cgroup above it knows."""

import os
import subprocess
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_tree import Clock, write_tree

from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import cgroups
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.sampler.jobs import Run
from eco2ai_hpc.sampler.marks import Mark
from eco2ai_hpc.sampler.tails import Tails

CPUS = 64
SCOPE = "system.slice/n1_slurmstepd.scope"


class Kernel:
    """Cgroups of one node as the kernel keeps them: a parent counts for its children, gone ones too."""

    def __init__(self, directory: Path) -> None:
        self.scope = directory / SCOPE
        self._total = 0
        self._used: dict[str, int] = {}
        self.use("system", 1_000_000)

    def use(self, name: str, cpu_us: int) -> None:
        self._total += cpu_us
        self._used[name] = self._used.get(name, 0) + cpu_us
        write_tree(self.scope, {f"{name}/cpu.stat": f"usage_usec {self._used[name]}", **self._own()})

    def remove(self, name: str, unseen_us: int = 0) -> None:
        self._total += unseen_us
        self._used.pop(name, None)
        folder = self.scope / name
        if folder.exists():
            folder.rename(self.scope.parent / f"gone.{time.perf_counter_ns()}")  # keeps its inode number
        write_tree(self.scope, self._own())

    def _own(self) -> dict[str, str]:
        return {"cpu.stat": f"usage_usec {self._total}"}


class Watched:
    """Runs under watch on a node whose cgroups are files."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.kernel = Kernel(directory)
        self.roots = Roots(cgroupfs=str(directory))
        self.runs: dict[int, Run] = {}
        self.tails = Tails(self.roots, "n1", CPUS)

    def start(self, job: int, cpus: int = 4) -> Run:
        env = {"SLURM_JOB_ID": str(job), "SLURM_JOB_CPUS_PER_NODE": str(cpus)}
        mark = Mark("", "start", job, env, self.clock())
        self.runs[job] = Run(f"{job}@9f3a01c2-{job}", mark, resumed=False)
        return self.runs[job]

    def look(self, seconds: float = 1.0, ending=()) -> None:
        self.clock.go_on(seconds)
        for run in self.runs.values():
            if run.path and not os.path.exists(run.path):
                answer_no_more(run)
        keys = [self.runs[job].key for job in ending]
        self.tails.poll(self.runs.values(), keys, self.clock())

    def end(self, job: int) -> None:
        self.tails.forget(self.runs.pop(job))


def answer_no_more(run: Run) -> None:
    """As the kernel has it once a cgroup was removed: what was opened of it stays ENODEV, whatever is made there."""
    run._usage.close()
    run._usage._files = {}


@pytest.fixture
def watched(tmp_path):
    watched = Watched(tmp_path)
    yield watched
    for run in watched.runs.values():
        run.close()
    watched.tails.close()


def test_what_a_run_used_after_the_last_look_is_its_own_to_the_microsecond(watched):
    ended, lasting = watched.start(7), watched.start(8)
    watched.look()
    for _ in range(5):
        watched.kernel.use("job_7", 2_000_000)
        watched.kernel.use("job_8", 3_000_000)
        watched.kernel.use("system", 1000)
        watched.look()
    watched.kernel.use("job_8", 500_000)
    watched.kernel.remove("job_7", unseen_us=1_234_567)
    watched.look()
    assert (ended.cpu_us, lasting.cpu_us) == (11_234_567, 15_500_000)
    watched.look()
    assert (ended.cpu_us, lasting.cpu_us) == (11_234_567, 15_500_000), "once"


def test_a_run_that_came_and_went_between_two_looks_has_all_that_it_used(watched):
    watched.look()
    short = watched.start(7)
    watched.kernel.use("job_7", 1000)
    watched.kernel.remove("job_7", unseen_us=300_000)
    watched.look(ending=[7])
    assert short.cpu_us == 301_000


def test_the_first_job_of_a_node_whose_slurm_has_made_no_cgroup_yet_is_known_too(tmp_path):
    watched = Watched(tmp_path / "later")
    (watched.kernel.scope).rename(tmp_path / "before")
    watched.look()
    short = watched.start(7)
    watched.kernel._total, watched.kernel._used = 0, {}
    watched.kernel.use("job_7", 1000)
    watched.kernel.remove("job_7", unseen_us=300_000)
    watched.look(ending=[7])
    assert short.cpu_us == 301_000
    watched.tails.close()


def test_a_step_that_came_and_went_belongs_to_the_job_that_has_no_cgroup_between_its_steps(watched):
    waiting = watched.start(7)
    watched.start(8)
    watched.kernel.use("job_8", 1000)
    watched.look()
    watched.kernel.use("job_7", 1000)
    watched.kernel.remove("job_7", unseen_us=200_000)
    watched.look()
    assert waiting.cpu_us == 201_000


def test_a_cgroup_that_returned_between_two_looks_keeps_what_the_first_used(watched):
    run = watched.start(7)
    watched.kernel.use("job_7", 1_000_000)
    watched.look()
    watched.kernel.remove("job_7", unseen_us=250_000)
    watched.kernel.use("job_7", 40_000)
    answer_no_more(run)
    watched.look()
    assert run.cpu_us == 1_290_000


def test_several_that_ended_between_two_looks_share_by_their_last_rates_and_lose_nothing(watched):
    busy, idle = watched.start(7, cpus=4), watched.start(8, cpus=4)
    for _ in range(3):
        watched.kernel.use("job_7", 4_000_000)
        watched.kernel.use("job_8", 10_000)
        watched.look()
    watched.kernel.remove("job_7", unseen_us=2_000_000)
    watched.kernel.remove("job_8", unseen_us=5_000)
    watched.look()
    assert busy.cpu_us + idle.cpu_us == 12_030_000 + 2_005_000
    assert abs(busy.cpu_us - 14_000_000) < 5_000


def test_several_short_ones_share_by_the_cpus_they_were_given(watched):
    watched.look()
    wide, narrow = watched.start(7, cpus=12), watched.start(8, cpus=4)
    watched.kernel.use("system", 0)
    watched.kernel.remove("job_7", unseen_us=1_600_000)
    watched.look(ending=[7, 8])
    assert (wide.cpu_us, narrow.cpu_us) == (1_200_000, 400_000)


def test_what_a_job_without_a_mark_used_is_nobody_elses(watched):
    run = watched.start(7)
    watched.kernel.use("job_7", 1_000_000)
    watched.kernel.use("job_99", 5_000_000)
    watched.look()
    watched.kernel.use("job_99", 5_000_000)
    watched.look()
    watched.kernel.remove("job_99", unseen_us=700_000)
    watched.look()
    watched.kernel.remove("job_7", unseen_us=100_000)
    watched.look()
    assert run.cpu_us == 1_100_000


def test_more_than_the_node_can_do_is_nobodys(watched):
    run = watched.start(7)
    watched.kernel.use("job_7", 1_000_000)
    watched.look()
    watched.kernel.remove("job_7", unseen_us=10**12)
    watched.look(seconds=2)
    assert run.cpu_us == 1_000_000 + 2 * CPUS * 1_000_000


def test_an_empty_cgroup_that_an_earlier_run_left_behind_is_not_this_runs_use(watched):
    watched.kernel.use("job_7", 9_000_000)
    write_tree(watched.kernel.scope, {"job_7/cgroup.events": "populated 0\nfrozen 0"})
    watched.look()
    again = watched.start(7)
    watched.look()
    write_tree(watched.kernel.scope, {"job_7/cgroup.events": "populated 1\nfrozen 0"})
    watched.kernel.use("job_7", 1_000_000)
    watched.look()
    assert again.cpu_us == 1_000_000
    watched.kernel.remove("job_7", unseen_us=50_000)
    watched.look()
    assert again.cpu_us == 1_050_000


def test_a_folder_that_stays_after_its_run_ended_is_not_counted_twice(watched):
    watched.start(7), watched.start(8)
    watched.kernel.use("job_7", 1_000_000)
    watched.kernel.use("job_8", 1_000_000)
    watched.look()
    watched.end(7)
    watched.look()
    last = watched.runs[8]
    watched.kernel.remove("job_8", unseen_us=123_456)
    watched.look()
    assert last.cpu_us == 1_123_456


def test_a_scope_that_slurm_made_anew_counts_from_nothing(watched):
    run = watched.start(7)
    watched.kernel.use("job_7", 5_000_000)
    watched.look()
    watched.kernel.scope.rename(watched.kernel.scope.with_name("gone"))
    answer_no_more(run)
    watched.tails._parent.close()
    watched.look()
    watched.kernel._total, watched.kernel._used = 0, {}
    watched.kernel.use("job_7", 1_000_000)
    watched.look()
    watched.kernel.remove("job_7", unseen_us=70_000)
    watched.look()
    assert run.cpu_us == 6_070_000


def test_a_restarted_sampler_knows_what_ended_while_none_ran(watched):
    run = watched.start(7)
    watched.kernel.use("job_7", 5_000_000)
    watched.look()
    state, known = run.state(), watched.tails.state()
    watched.kernel.remove("job_7", unseen_us=800_000)
    watched.tails = Tails(watched.roots, "n1", CPUS)
    watched.tails.restore(known)
    resumed = watched.runs[7] = Run(run.key, run.mark, resumed=True)
    resumed.restore(state)
    watched.look(60)
    assert resumed.cpu_us == 5_800_000


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_comes_and_goes_no_cpu_time_is_lost_and_none_invented(tmp_path_factory, data):
    watched = Watched(tmp_path_factory.mktemp("node"))
    used: dict[int, int] = {}
    jobs, ended = count(1), []
    watched.look()
    for _ in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(0, 2))):
            job = next(jobs)
            watched.start(job, data.draw(st.integers(1, 8)))
            used[job] = 0
        leaving = [job for job in watched.runs if data.draw(st.integers(0, 3)) == 0]
        for job in watched.runs:
            if cpu_us := data.draw(st.integers(0, 1_000_000)):
                watched.kernel.use(f"job_{job}", cpu_us)
                used[job] += cpu_us
        watched.kernel.use("system", data.draw(st.integers(0, 1000)))
        for job in leaving:
            unseen_us = data.draw(st.integers(0, 1_000_000))
            watched.kernel.remove(f"job_{job}", unseen_us)
            used[job] += unseen_us
        watched.look(ending=leaving)
        if len(leaving) == 1:
            assert watched.runs[leaving[0]].cpu_us == used[leaving[0]] or used[leaving[0]] == 0, "alone: exact"
        found = sum(watched.runs[job].cpu_us or 0 for job in leaving)
        assert abs(found - sum(used[job] for job in leaving)) <= len(leaving), "together: nothing lost but fractions"
        for job in leaving:
            watched.end(job)
            ended.append(job)
        for job, run in watched.runs.items():
            assert (run.cpu_us or 0) == used[job]
    for run in watched.runs.values():
        run.close()
    watched.tails.close()


# This machine's own kernel


REAL = {
    "v1": ("/sys/fs/cgroup/cpuacct/slurm_eco2ai-tail", "uid_5001/job_7", "uid_5001/job_8"),
    "hybrid": ("/sys/fs/cgroup/unified/system.slice/eco2ai-tail_slurmstepd.scope", "job_7", "job_8"),
    "v2": ("/sys/fs/cgroup/system.slice/eco2ai-tail_slurmstepd.scope", "job_7", "job_8"),
}


@pytest.fixture(params=REAL)
def real(request):
    """Two jobs' cgroups below one of their own, made by this test and removed after it."""
    base, *names = REAL[request.param]
    top = Path(base)
    anchor = top.parent if request.param == "v1" else Path(base.partition("/system.slice")[0])
    marker = "cpuacct.usage" if request.param == "v1" else "cgroup.controllers"
    if os.geteuid() != 0 or not (anchor / marker).exists():
        pytest.skip(f"no cgroup {request.param} to write in")
    jobs = [top / name for name in names]
    made = [folder for job in jobs for folder in [job, *job.parents] if not folder.exists()]
    try:
        for job in jobs:
            job.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        pytest.skip(str(error))
    yield jobs
    for folder in sorted(set(made), key=lambda path: -len(path.parts)):
        with suppress(OSError):
            folder.rmdir()


def spin(cgroup: Path, seconds: float) -> subprocess.Popen:
    code = (
        "import sys, time\n"
        "began = time.process_time()\n"
        f"while time.process_time() - began < {seconds}: pass\n"
        "sys.stdout.write(str(time.process_time() - began)); sys.stdout.flush()"
    )
    words = ["sh", "-c", f'echo $$ >"{cgroup}/cgroup.procs" && exec python3 -S -c "$0"', code]
    return subprocess.Popen(words, stdout=subprocess.PIPE)


def spent_us(process: subprocess.Popen) -> int:
    """All CPU time of a process, the kernel's figure."""
    process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    return round((used.ru_utime + used.ru_stime) * 1_000_000)


def remove(cgroup: Path) -> None:
    for _ in range(200):
        with suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(0.001)
    raise AssertionError("the cgroup did not go")


def real_run(job: int) -> Run:
    mark = Mark("", "start", job, {"SLURM_JOB_ID": str(job), "SLURM_JOB_UID": "5001"}, Moment.now())
    return Run(f"{job}@9f3a01c2-{job}", mark, resumed=False)


@pytest.mark.parametrize("has_neighbour", [False, True], ids=["alone", "beside a busy neighbour"])
def test_what_burnt_in_a_cgroup_that_the_kernel_removed_is_known_within_10_ms(real, has_neighbour):
    cgroup, other = real
    tails = Tails(Roots(), "eco2ai-tail", os.cpu_count())
    run, neighbour = real_run(7), real_run(8)
    runs = [run, neighbour]
    tails.poll(runs, (), Moment.now())
    beside = spin(other, 2.0) if has_neighbour else None
    time.sleep(0.1)
    process = spin(cgroup, 0.3)
    time.sleep(0.15)
    tails.poll(runs, (), Moment.now())
    seen_us = run.cpu_us
    burnt_us = spent_us(process)
    remove(cgroup)
    tails.poll(runs, (), Moment.now())
    for one in runs:
        one.close()
    tails.close()
    if beside:
        beside.kill()
        spent_us(beside)
    print(f"burnt {burnt_us} us, seen before it went {seen_us}, known after {run.cpu_us}")
    assert seen_us < burnt_us - 20_000, "the last look missed a part"
    # What sh did before it entered the cgroup is the process's and not the cgroup's: about 1 ms.
    assert abs(run.cpu_us - burnt_us) < 10_000


def test_the_kernel_and_the_imitation_agree_on_what_a_parent_keeps(real):
    cgroup, _ = real
    parent = cgroups.find_parent(Roots(), "eco2ai-tail")
    before_us = parent.cpu_us()
    burnt_us = spent_us(spin(cgroup, 0.05))
    remove(cgroup)
    assert abs(parent.cpu_us() - before_us - burnt_us) < 10_000
    parent.close()
