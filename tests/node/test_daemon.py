"""The real `eco2ai-sampler`, as a prolog, an init system or a person starts it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from node_tree import METER_TREES, TWO_SOCKETS, Clock, Node, encode, read_lines

from eco2ai_hpc import spool
from eco2ai_hpc.sampler import __main__ as command_line
from eco2ai_hpc.sampler import daemon, placement, slurm_conf

SAMPLER = [sys.executable, "-m", "eco2ai_hpc.sampler"]
ROOT = Path(__file__).parents[2]


def until(condition, what: str):
    """The first true value of `condition`, within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


class Installed:
    """A node's directories and the sampler that runs there, if any."""

    def __init__(self, directory: Path) -> None:
        self.node = Node(directory, Clock())
        self.run_dir, self.segments = self.node.run_dir, self.node.segments
        roots = self.node.roots
        self.words = ["--sysfs", roots.sysfs, "--procfs", roots.procfs, "--cgroupfs", roots.cgroupfs]
        self.words += ["--run-dir", str(self.run_dir), "--spool-dir", str(self.node.spool_dir)]
        self.words += ["--cluster", "lab", "--node", "n1"]
        self.pids: set[int] = set()

    def start(self, *more: str, **options) -> subprocess.CompletedProcess:
        """Start as a prolog does; returns when the starting process has ended and let go of its pipes."""
        options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 20} | options
        done = subprocess.run([*SAMPLER, "run", *self.words, *more], check=False, **options)
        if (self.run_dir / "sampler.pid").exists():
            self.pids.add(self.pid)
        return done

    @property
    def pid(self) -> int:
        return int((self.run_dir / "sampler.pid").read_text().split()[0])

    def is_alive(self, pid: int) -> bool:
        """Whether it runs; one that nobody has waited for yet does not."""
        return self.stat(pid)[:1] not in ([], ["Z"])

    def stat(self, pid: int) -> list[str]:
        """The fields of its stat after the name; none where there is no such process."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return []

    def stop(self, number: int = signal.SIGTERM) -> None:
        pid = self.pid
        os.kill(pid, number)
        until(lambda: not self.is_alive(pid), "its end")

    def lines(self, kind: str) -> list[dict]:
        return [line for line in read_lines(self.segments) if line["k"] == kind] if self.segments.exists() else []

    def first_tick(self) -> dict:
        return until(lambda: self.lines("tick"), "a tick")[0]

    def mark(self, edge: str, job: int) -> None:
        """As the hooks do it, poke included."""
        uptime = Path("/proc/uptime").read_text().split()[0]
        records = {"mark": "1", "edge": edge, "uptime": uptime, "SLURM_JOB_ID": str(job), "complete": "1"}
        partial = self.run_dir / "marks" / ".tmp.1"
        partial.write_bytes(encode(records))
        partial.rename(partial.with_name(f"{edge}.{job}.1"))
        poke = os.open(self.run_dir / "poke", os.O_RDWR | os.O_NONBLOCK)
        os.write(poke, b".")
        os.close(poke)


@pytest.fixture
def installed(tmp_path):
    installed = Installed(tmp_path)
    yield installed
    for pid in installed.pids:
        if installed.is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def running(installed):
    done = installed.start()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    installed.first_tick()
    return installed


def test_it_becomes_a_daemon_that_nobodys_end_takes_along(running):
    fields = running.stat(running.pid)
    ppid, group, session = fields[1:4]
    assert (group, session) == (str(running.pid), str(running.pid))
    assert ppid != str(os.getpid())
    assert Path(f"/proc/{running.pid}/comm").read_text() == "eco2ai-sampler\n"
    assert os.readlink(f"/proc/{running.pid}/cwd") == "/"


def test_the_pid_file_tells_a_living_sampler_from_a_recycled_pid(running):
    text = (running.run_dir / "sampler.pid").read_text()
    assert text == f"{running.pid} {running.stat(running.pid)[19]}\n"
    assert (running.run_dir / "sampler.pid").stat().st_mode & 0o777 == 0o644


def test_it_reads_the_node_that_it_was_given(running):
    assert running.first_tick()["c"]["rapl:package-1"] == 123456789013
    assert running.lines("header")[0]["boot"] == (TWO_SOCKETS / "proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_second_start_is_a_no_op(running):
    pid = running.pid
    done = running.start()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert running.pid == pid
    assert running.is_alive(pid)
    assert len(running.lines("header")) == 1


def test_it_holds_nothing_of_who_started_it(installed):
    read_end, write_end = os.pipe()
    high = fcntl.fcntl(write_end, fcntl.F_DUPFD, 900)
    os.close(write_end)
    began = time.monotonic()
    installed.start(pass_fds=(high,))  # returns only when nobody holds its output any more
    os.close(high)
    assert os.read(read_end, 1) == b"", "the end of the pipe: nobody holds that either"
    os.close(read_end)
    assert time.monotonic() - began < 5
    assert installed.is_alive(installed.pid)
    descriptors = Path(f"/proc/{installed.pid}/fd")
    assert {os.readlink(descriptors / str(number)) for number in range(3)} == {"/dev/null"}


def test_sigterm_seals_and_ends_it(running):
    running.stop(signal.SIGTERM)
    [path] = spool.sealed_segments(str(running.segments))
    segment = spool.read_segment(path)
    assert segment.intact
    assert not segment.seal.recovered
    assert [tick["why"] for tick in running.lines("tick")] == ["clock", "stop"]
    assert not (running.run_dir / "sampler.pid").exists()


def test_sighup_does_not_end_it(running):
    os.kill(running.pid, signal.SIGHUP)
    running.mark("start", 7)
    until(lambda: running.lines("job_start"), "the job")


def test_what_was_killed_is_recovered_by_the_next_and_its_jobs_go_on(running):
    running.mark("start", 7)
    until(lambda: [tick for tick in running.lines("tick") if tick["why"] == "start"], "the job's reading")
    running.stop(signal.SIGKILL)
    [part] = running.segments.glob("*.part")
    content = part.read_bytes()
    assert running.start().returncode == 0
    until(lambda: len(running.lines("tick")) == 3, "the second's first tick")
    sealed = part.with_suffix("")
    assert sealed.read_bytes().startswith(content)
    segment = spool.read_segment(str(sealed))
    assert (segment.intact, segment.seal.recovered) == (True, True)
    first, again = running.lines("job_start")
    assert (first["run"], again["resumed"]) == (again["run"], True)
    assert abs(first["bt"] - again["bt"]) < 20_000_000


def test_a_poke_gets_a_reading_at_once(running):
    running.mark("start", 7)
    began = time.monotonic()
    until(lambda: running.lines("job_start"), "the job")
    assert time.monotonic() - began < 2


def test_a_poke_that_is_no_fifo_costs_no_busy_loop(installed):
    installed.run_dir.mkdir()
    (installed.run_dir / "poke").write_text("mine")
    installed.start()
    installed.first_tick()

    def cpu_ticks() -> int:
        return sum(map(int, installed.stat(installed.pid)[11:13]))

    before = cpu_ticks()
    time.sleep(0.5)
    assert cpu_ticks() - before <= 10, "100 ms of CPU time in 500 ms"


def test_relative_paths_are_those_of_who_started_it(installed, tmp_path):
    installed.words[installed.words.index("--spool-dir") + 1] = "spool"
    installed.words[installed.words.index("--run-dir") + 1] = "run"
    done = installed.start(cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0
    installed.first_tick()


def test_users_may_enter_the_run_directory_whatever_the_umask_is(installed):
    installed.start(umask=0o077)
    assert installed.run_dir.stat().st_mode & 0o777 == 0o755
    assert (installed.run_dir / "jobs").stat().st_mode & 0o777 == 0o700


def test_in_the_foreground_it_is_told_by_the_environment_and_ends_with_0(installed):
    roots = installed.node.roots
    told = {
        "SPOOL_DIR": installed.node.spool_dir, "RUN_DIR": installed.run_dir, "SYSFS": roots.sysfs, "INTERVAL": "0.2",
        "PROCFS": roots.procfs, "CGROUPFS": roots.cgroupfs, "CLUSTER": "lab", "NODE": "n1", "SEAL_SECONDS": "0.5",
    }  # fmt: skip
    env = os.environ | {f"ECO2AI_HPC_{name}": str(value) for name, value in told.items()}
    process = subprocess.Popen([*SAMPLER, "run", "--foreground"], cwd=ROOT, env=env)
    until(lambda: list(spool.sealed_segments(str(installed.segments))), "a sealed segment")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert installed.lines("header")[0]["interval_s"] == 0.2


def test_it_runs_where_and_as_it_was_told_and_dies_before_the_system_does(installed):
    first = min(os.sched_getaffinity(0))
    environment = os.environ | {"ECO2AI_HPC_CORE_SPEC": str(first), "ECO2AI_HPC_NICE": "5"}
    assert installed.start(env=environment).returncode == 0
    pid = installed.pid
    assert os.sched_getaffinity(pid) == {first}
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5
    mine = Path("/proc/self/oom_score_adj").read_text()  # it stays where lowering it is not allowed
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() in {"-500\n", mine}


def test_cores_that_the_kernel_refuses_do_not_stop_it(installed):
    assert installed.start("--pin-cores", "9000").returncode == 0
    assert os.sched_getaffinity(installed.pid) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("asked", "core_spec", "cores"),
    [
        ("auto", None, None), ("auto", "", None), ("auto", "0-1,64", {0, 1, 64}), ("off", "0-1", None),
        ("3", "0-1", {3}), ("2-4,8", None, {2, 3, 4, 8}),
    ],
)  # fmt: skip
def test_the_cores_are_those_of_the_flag_else_of_the_sites_core_spec(asked, core_spec, cores):
    assert placement.cores(asked, core_spec) == cores


# What goes wrong


@pytest.mark.parametrize("more", [[], ["--foreground"]], ids=["daemon", "foreground"])
def test_a_run_directory_that_cannot_be_written_is_said_and_ends_with_4(installed, tmp_path, more):
    (tmp_path / "file").write_text("")
    done = installed.start("--run-dir", str(tmp_path / "file" / "run"), *more)
    assert (done.returncode, done.stderr) == (4, f"error: Not a directory: {tmp_path}/file/run\n")


@pytest.mark.parametrize("more", [[], ["--foreground"]], ids=["daemon", "foreground"])
def test_a_name_that_leaves_the_spool_is_said_and_ends_with_3(installed, more):
    for what in ("node", "cluster"):
        done = installed.start(f"--{what}", "../n1", *more)
        assert done.returncode == 3
        assert f"error: {what} name '../n1' cannot be a spool directory\n  try: " in done.stderr


def test_a_node_that_cannot_be_read_is_said_and_ends_with_4(installed, tmp_path):
    done = installed.start("--procfs", str(tmp_path / "missing"))
    assert (done.returncode, done.stderr) == (4, f"error: No such file or directory: {tmp_path}/missing/cpuinfo\n")


def test_a_spool_that_cannot_be_written_does_not_stop_it(installed, tmp_path):
    (tmp_path / "spool").write_text("")
    assert installed.start().returncode == 0
    time.sleep(0.1)
    assert installed.is_alive(installed.pid)
    (tmp_path / "spool").unlink()
    installed.mark("start", 7)
    until(lambda: installed.lines("job_start"), "the job")
    assert len(until(lambda: installed.lines("gap"), "the hole")) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "run|probe"),
        (["run", "--colour"], 2, "--colour"),
        (["run", "--interval", "soon"], 2, "--interval"),
        (["run", "--manager", "pbs"], 2, "--manager"),
        (["run", "--interval", "31"], 3, "--interval 31 is not within 0 to 30 s\n  try: "),
        (["run", "--interval", "0"], 3, "--interval 0 is not within"),
        (["run", "--interval", "nan"], 3, "--interval nan is not within"),
        (["run", "--seal-seconds", "-1"], 3, "--seal-seconds -1 is not within"),
        (["run", "--seal-seconds", "inf"], 3, "--seal-seconds inf is not within"),
        (["run", "--tdp-w", "-280", "--cluster", "lab"], 3, "--tdp-w -280 is not within"),
        (["run", "--nice", "20"], 3, "--nice 20 is not within -20 to 19"),
        (["run", "--pin-cores", "all"], 3, "--pin-cores 'all' is no list of CPUs\n  try: auto, off, or a list"),
        (["run", "--spool-max-bytes", "5", "--cluster", "lab"], 3, "--spool-max-bytes 5 is less than"),
        (["run", "--spool-keep-days", "-1", "--cluster", "lab"], 3, "--spool-keep-days -1 is not within"),
        (["run", "--spool-user", "nobody-of-that-name", "--cluster", "lab"], 3, "no user 'nobody-of-that-name'"),
        (["probe", "--tdp-w", "nan"], 3, "--tdp-w nan is not within"),
        (["run"], 3, "error: the cluster's name is unknown: no slurm.conf was found\n  try: give --cluster NAME"),
        (["probe", "--procfs", "/missing"], 4, "error: No such file or directory: /missing/cpuinfo"),
    ],
)
def test_a_mistake_is_said_with_its_own_exit_code(monkeypatch, capsys, tmp_path, words, code, said):
    monkeypatch.setattr(slurm_conf, "PATHS", ())
    monkeypatch.setattr(daemon, "detach", lambda: pytest.fail("no mistake was seen"))  # it would end the tests
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "missing"))
    monkeypatch.setenv("ECO2AI_HPC_RUN_DIR", str(tmp_path / "run"))
    try:
        found = command_line.run(words)
    except SystemExit as end:
        found = end.code
    assert found == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "cluster"),
    [("ClusterName=lab\n", "lab"), ("# c\nSlurmctldHost=a\n clustername = Big-One # ours\n", "big-one")],
)
def test_the_clusters_name_is_slurms(monkeypatch, tmp_path, text, cluster):
    (tmp_path / "slurm.conf").write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert command_line._cluster_name("slurm") == cluster


def test_without_slurm_the_cluster_is_called_local(monkeypatch):
    monkeypatch.setattr(slurm_conf, "PATHS", ())
    assert command_line._cluster_name("local") == "local"


@pytest.mark.parametrize(("machine", "code"), [("rapl/psys-at-top-level", 0), ("model/bare-family-name", 1)])
def test_the_probe_ends_with_1_where_nothing_can_be_measured(capsys, machine, code):
    tree = METER_TREES / machine
    assert command_line.run(["probe", "--json", "--sysfs", f"{tree}/sys", "--procfs", f"{tree}/proc"]) == code
    assert json.loads(capsys.readouterr().out)["schema"] == "eco2ai-hpc/probe/1"
    assert command_line.run(["probe", "--sysfs", f"{tree}/sys", "--procfs", f"{tree}/proc"]) == code
    assert "rapl " in capsys.readouterr().out


def test_a_starter_that_was_killed_does_not_take_the_daemon_along():
    read_end, write_end = os.pipe()
    os.close(read_end)
    daemon.ready(write_end)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_end)


def test_the_lock_is_one_nodes_and_not_two(tmp_path):
    code = (
        "import sys; from eco2ai_hpc.sampler import daemon; print(daemon.take_lock(sys.argv[1]), flush=True); input()"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    holder = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    second = subprocess.run(words, cwd=ROOT, input="\n", capture_output=True, text=True, check=True)
    assert second.stdout == "False\n"
    holder.communicate("\n")
    third = subprocess.run(words, cwd=ROOT, input="\n", capture_output=True, text=True, check=True)
    assert third.stdout == "True\n"
