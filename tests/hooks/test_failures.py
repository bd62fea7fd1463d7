"""What goes wrong on a node must not reach its jobs: whatever happens, exit 0 within 2 s, no output, nothing left.

Those four are asserted by every run of a hook (slurm_node.py); here are the bad surroundings.
"""

import ctypes
import os
import signal
import time

import pytest
from slurm_node import (
    BOUND_SECONDS,
    command,
    eventually,
    frozen,
    in_mount_namespace,
    members,
    mounted,
    needs_root,
    silent,
)

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_ACCOUNT": "proj" * 5000}
HOOKS = pytest.mark.parametrize("hook", ["prolog.sh", "epilog.sh"])


@needs_root
@HOOKS
@pytest.mark.parametrize("prepared", [False, True], ids=["nothing there", "directories there"])
def test_read_only_run_directory(node, hook, prepared):
    with mounted(node.run_dir, "-t", "tmpfs", "tmpfs"):
        if prepared:
            (node.run_dir / "marks").mkdir()
        command("mount", "-o", "remount,ro", node.run_dir)
        node.run(hook, JOB)
        assert not any(path.is_file() for path in node.run_dir.rglob("*"))


@needs_root
@HOOKS
@pytest.mark.parametrize("limit", ["size=32k", "nr_inodes=6"])
def test_full_file_system_keeps_no_half_mark(node, hook, limit):
    with mounted(node.run_dir, "-t", "tmpfs", "-o", limit, "tmpfs"):
        (node.run_dir / "marks").mkdir()
        with pytest.raises(OSError, match="No space"):
            for number in range(1000):
                (node.run_dir / f"filler{number}").write_bytes(b"x" * 1000)
        node.run(hook, JOB)
        assert list((node.run_dir / "marks").iterdir()) == []
        for filler in node.run_dir.glob("filler*"):
            filler.unlink()
        node.run(hook, JOB)
        assert len(node.marks()) == 1


@needs_root
@HOOKS
def test_hung_disk_is_left_behind(node, hook):
    with frozen(node.run_dir, node.directory / "image"):
        run = node.start(hook, JOB)
        assert run.finish() > 1, "the disk did not hang"
        assert members(run.process.pid), "the disk did not hang"
    eventually(lambda: not members(run.process.pid), "the worker goes on once the disk is back")


@needs_root
def test_hung_network_file_system_is_given_up(node):
    with silent(node.run_dir):
        assert node.prolog(JOB) > 1, "the file system answered"


@HOOKS
def test_run_directory_that_is_a_file(node, hook):
    node.run_dir.write_text("mine")
    node.run(hook, JOB)
    assert node.run_dir.read_text() == "mine"


def test_sampler_that_stopped_reading_its_pokes(node):
    node.run_dir.mkdir()
    os.mkfifo(node.run_dir / "poke")
    poke = os.open(node.run_dir / "poke", os.O_RDWR | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(poke, bytes(4096))
    assert node.epilog(JOB) > 1, "the FIFO was not full"
    os.close(poke)
    assert len(node.marks()) == 1


def test_sampler_that_never_gets_ready_is_ended(node):
    _install(node, "#!/bin/sh\ntrap '' TERM\nexec sleep 60\n")
    assert node.prolog(JOB) > 1
    assert list(node.marks()) == ["start.7"]


@pytest.mark.parametrize(
    "sampler",
    [
        "#!/bin/sh\nexit 0\n",
        "#!/bin/sh\nexit 3\n",
        "#!/bin/sh\necho noise; echo more >&2\n",
        "#!/no/such/interpreter\n",
        "not a program",
    ],
    ids=["does nothing", "fails", "is noisy", "has no interpreter", "is no program"],
)
def test_sampler_that_does_not_start(node, sampler):
    _install(node, sampler)
    assert node.prolog(JOB) < 1.4
    assert list(node.marks()) == ["start.7"]


def test_sampler_that_is_missing(node):
    assert node.prolog(JOB) < 1.4
    assert list(node.marks()) == ["start.7"]


@needs_root
def test_no_process_can_be_forked(node):
    node.prolog(JOB, preexec_fn=_forbid_forks)
    assert not node.run_dir.exists()


@needs_root
def test_devices_that_are_missing(node):
    """Without /dev/null nothing can be redirected, complaints neither."""
    node.wrap = in_mount_namespace("mount -t tmpfs tmpfs /dev")
    run = node.start("prolog.sh", JOB)
    run.process.communicate(timeout=BOUND_SECONDS)
    assert run.process.returncode == 0


@pytest.mark.parametrize("action", ["blocked", "ignored"])
def test_signals_that_slurmd_blocked_or_ignored(node, action):
    def inherit():
        if action == "blocked":
            signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        else:
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                if number < signal.SIGRTMIN:
                    signal.signal(number, signal.SIG_IGN)

    assert node.prolog(JOB, preexec_fn=inherit, restore_signals=False) < 1.4
    assert list(node.marks()) == ["start.7"]


def test_stdout_stays_open_until_the_hook_ends(node):
    """Slurm's slurmd once killed a script that closed its stdout (before 20.11), which drains the node."""
    _install(node, "#!/bin/sh\nexec sleep 60\n")
    run = node.start("prolog.sh", JOB)
    assert run.process.stdout.read() == b""
    closed = time.monotonic()
    run.process.wait()
    assert 1 < closed - run.began < BOUND_SECONDS
    assert time.monotonic() - closed < 0.2


def _install(node, text):
    sampler = node.directory / "eco2ai-sampler"
    sampler.write_text(text)
    sampler.chmod(0o755)
    node.env["ECO2AI_HPC_SAMPLER"] = str(sampler)


def _forbid_forks():
    """A process namespace whose first process has ended takes no other."""
    new_pid_namespace = 0x20000000
    if ctypes.CDLL(None, use_errno=True).unshare(new_pid_namespace):
        raise OSError(ctypes.get_errno(), "unshare")
    first = os.fork()
    if first == 0:
        os._exit(0)
    os.waitpid(first, 0)
