"""One line on a node's health that can never drain it."""

import os
import signal
import subprocess
import sys
import time

import pytest

SAMPLER = [sys.executable, "-m", "eco2ai_hpc.sampler"]


@pytest.fixture
def node(tmp_path):
    paths = ["--run-dir", str(tmp_path / "run"), "--spool-dir", str(tmp_path / "spool")]
    options = ["--cluster", "c", "--node", "n1", "--tdp-w", "65", "--interval", "1"]
    subprocess.run([*SAMPLER, "run", *paths, *options], check=True)
    until(lambda: list((tmp_path / "spool").glob("c/n1/*")))

    def doctor(*words):
        return subprocess.run([*SAMPLER, "doctor", *paths, *words], capture_output=True, text=True, timeout=10)

    doctor.pid = int((tmp_path / "run/sampler.pid").read_text().split()[0])
    doctor.path = tmp_path
    yield doctor
    stop(doctor.pid, signal.SIGKILL)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stop(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def test_all_is_well(node):
    done = node("--strict")
    assert (done.returncode, done.stdout) == (0, "ok: the sampler runs and writes\n")


def test_a_dead_sampler_is_said_and_never_drains(node):
    stop(node.pid, signal.SIGKILL)
    done = node()  # it may still be there as a zombie: PID 1 reaps late
    assert done.returncode == 0
    assert done.stdout.startswith("warning: no sampler runs (try: ")
    assert node("--strict").returncode == 1


def test_a_node_without_anything_has_one_line_and_exit_0(tmp_path):
    command = [*SAMPLER, "doctor", "--run-dir", str(tmp_path / "a"), "--spool-dir", str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert "no sampler runs" in done.stdout and "no spool at" in done.stdout


def test_the_kill_switch_is_named(node):
    (node.path / "run/disabled").touch()
    assert node().stdout.startswith("warning: switched off (try: rm ")


def test_readings_that_stopped_are_said(node):
    os.kill(node.pid, signal.SIGSTOP)
    for path in (node.path / "spool").rglob("*"):
        os.utime(path, (0, 0))
    assert "last reading written" in node().stdout


def test_a_mark_that_nobody_takes_is_said(node):
    os.kill(node.pid, signal.SIGSTOP)
    mark = node.path / "run/marks/start.7.1"
    mark.write_bytes(b"")
    os.utime(mark, (time.time() - 1000,) * 2)
    assert "a job's mark waits since" in node().stdout
