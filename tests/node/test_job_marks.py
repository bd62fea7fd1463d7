"""What the hooks leave behind, as the sampler takes it in."""

import os
import stat

import pytest
from node_tree import BOOT_ID, SECOND, encode

from eco2ai_hpc.sampler.marks import RunDirectory, read_mark

EVERY_BYTE = bytes(range(1, 256))
HOSTILE = {
    "newline": b"first\nSLURM_JOB_ID=999\nlast\n",
    "equals signs": b"a=b=c==",
    "looks like a record": b"complete=1",
    "quotes and backslashes": rb"a'b\"c`d \\ \0 $(touch /tmp/x) %s",
    "not UTF-8": EVERY_BYTE,
    "long": EVERY_BYTE * 400,
    "empty": b"",
}


@pytest.fixture
def directory(node) -> RunDirectory:
    directory = RunDirectory(str(node.run_dir))
    directory.prepare()
    return directory


def test_a_mark_says_which_job_which_edge_and_when(node, directory, clock):
    node.mark("start", 4711, SLURM_JOB_UID="5001", SLURM_JOB_SLUID="sEKNKTV3WPV500")
    [mark], torn = directory.pending(clock.go_on(2))
    assert (mark.edge, mark.job, mark.uid, mark.sluid, torn) == ("start", 4711, 5001, "sEKNKTV3WPV500", [])
    assert (mark.at.wall_ns, mark.at.boot_ns) == (clock.wall_ns - 2 * SECOND, clock.boot_ns - 2 * SECOND)


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_is_read_byte_for_byte(node, directory, clock, value):
    node.mark("start", 7, SLURM_JOB_ACCOUNT=value, SLURM_JOB_RESERVATION=value)
    [mark], _ = directory.pending(clock())
    assert mark.job == 7
    assert os.fsencode(mark.env["SLURM_JOB_ACCOUNT"]) == value
    assert os.fsencode(mark.env["SLURM_JOB_RESERVATION"]) == value


def test_only_slurms_variables_are_evidence(node, directory, clock):
    node.mark("start", 7, SLURM_JOB_USER="alice")
    [mark], _ = directory.pending(clock())
    assert mark.env == {"SLURM_JOB_ID": "7", "SLURM_JOB_USER": "alice"}


def test_a_mark_torn_at_any_byte_is_not_taken(node, directory, clock):
    whole = encode({"mark": "1", "edge": "start", "uptime": clock.uptime, "SLURM_JOB_ID": "7", "complete": "1"})
    for torn_at in range(len(whole) - 1):  # the last byte is the NUL after complete=1
        path = node.raw_mark("start.7.1", whole[:torn_at])
        assert directory.pending(clock()) == ([], [])
        assert path.exists()


def test_a_torn_mark_is_removed_after_a_while_and_reported(node, directory, clock):
    path = node.raw_mark("start.7.1", b"mark=1\0edge=start\0")
    assert directory.pending(clock.go_on(9)) == ([], [])
    assert directory.pending(clock.go_on(2)) == ([], [str(path)])
    assert directory.pending(clock()) == ([], [])


def test_a_mark_that_is_still_written_is_left_alone_and_forgotten_in_the_end(node, directory, clock):
    path = node.raw_mark(".tmp.99", b"mark=1\0")
    assert directory.pending(clock.go_on(60)) == ([], [])
    assert path.exists()
    directory.pending(clock.go_on(600))
    assert not path.exists()


@pytest.mark.parametrize("job", ["", "-7", "7 8", "7\n", "²", "٧", "1_0", "9" * 11, "9" * 5000, "../7"])
def test_what_is_no_job_id_is_no_mark(node, directory, clock, job):
    node.raw_mark("start.7.1", encode({"mark": "1", "edge": "start", "SLURM_JOB_ID": job, "complete": "1"}))
    assert directory.pending(clock())[0] == []


@pytest.mark.parametrize("records", [{"edge": "middle"}, {"edge": ""}, {"mark": "2"}, {"complete": "0"}], ids=repr)
def test_what_is_no_mark_of_ours_is_no_mark(node, directory, clock, records):
    known = {"mark": "1", "edge": "start", "SLURM_JOB_ID": "7", "complete": "1"}
    node.raw_mark("start.7.1", encode(known | records))
    assert directory.pending(clock())[0] == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("UID", ""), ("UID", "²"), ("UID", "-1"), ("SLUID", ""), ("SLUID", "../x"), ("SLUID", b"\xff")],
)
def test_a_uid_or_sluid_that_cannot_be_one_is_unknown(node, directory, clock, variable, value):
    node.mark("start", 7, **{f"SLURM_JOB_{variable}": value})
    [mark], _ = directory.pending(clock())
    assert (mark.uid, mark.sluid) == (None, None)


def test_a_directory_among_the_marks_stops_nothing(node, directory, clock):
    (node.run_dir / "marks" / "start.8.1").mkdir()
    node.mark("start", 7)
    clock.go_on(3600 * 24 * 365 * 20)
    assert [mark.job for mark in directory.pending(clock())[0]] == [7]


def test_a_run_directory_that_was_removed_holds_no_marks(node, directory, clock):
    (node.run_dir / "marks").rmdir()
    assert directory.pending(clock()) == ([], [])


def test_marks_come_oldest_first_and_an_end_before_a_start_of_the_same_moment(node, directory, clock):
    node.mark("start", 3)
    node.mark("end", 2)
    clock.go_on(-1)
    node.mark("start", 1)
    clock.go_on(1)
    assert [mark.job for mark in directory.pending(clock())[0]] == [1, 2, 3]


# Time


@pytest.mark.parametrize("step", [3600, -3600, 0.8, -0.8])
def test_a_mark_keeps_its_time_when_the_wall_clock_is_set(node, directory, clock, step):
    node.mark("start", 7)
    began_ns = clock.boot_ns
    clock.go_on(5)
    clock.set_wall(step)
    [mark], _ = directory.pending(clock.go_on(1))
    assert abs(mark.at.boot_ns - began_ns) < SECOND // 100, "/proc/uptime counts in 10 ms"
    assert mark.at.wall_ns == clock.wall_ns - (clock.boot_ns - mark.at.boot_ns), "on today's wall clock"


def test_while_nobody_sets_the_clock_a_mark_is_exact(node, directory, clock):
    clock.go_on(0.001234567)
    node.mark("start", 7)
    began = clock()
    [mark], _ = directory.pending(clock.go_on(20))
    assert mark.at == began


@pytest.mark.parametrize("uptime", ["", "soon", "nan", "inf", "-inf", "1e400", "1e200", "-5"])
def test_an_uptime_that_cannot_be_does_no_harm(node, directory, clock, uptime):
    node.mark("start", 7, uptime=uptime)
    [mark], _ = directory.pending(clock.go_on(1))
    assert 0 <= mark.at.boot_ns <= clock.boot_ns
    assert mark.at.utc().startswith("2026-11-2")


def test_a_mark_is_never_later_than_now(node, directory, clock):
    path = node.mark("start", 7, uptime=str(clock.boot_ns / SECOND + 50))
    os.utime(path, ns=(clock.wall_ns + 60 * SECOND,) * 2)
    [mark], _ = directory.pending(clock())
    assert mark.at == clock()


# Runs


def test_a_claimed_run_is_alive_until_it_is_released(node, directory, clock):
    path = node.mark("start", 7, SLURM_JOB_USER="alice")
    [mark], _ = directory.pending(clock())
    directory.claim(mark, "7@9f3a01c2-1")
    assert not path.exists()
    assert directory.pending(clock()) == ([], [])
    [(key, again)] = directory.alive(clock.go_on(100))
    assert (key, again.job, again.env, again.at) == ("7@9f3a01c2-1", 7, mark.env, mark.at)
    directory.release(key)
    directory.release(key)
    assert directory.alive(clock()) == []


def test_a_mark_that_somebody_removed_meanwhile_can_still_be_claimed(node, directory, clock):
    node.mark("start", 7)
    [mark], _ = directory.pending(clock())
    directory.forget(mark.path)
    directory.claim(mark, "7@9f3a01c2-1")
    assert directory.alive(clock()) == []


def test_a_torn_run_is_forgotten(node, directory, clock):
    (node.run_dir / "jobs" / "7@9f3a01c2-1").write_bytes(b"mark=1\0")
    assert directory.alive(clock()) == []
    assert list((node.run_dir / "jobs").iterdir()) == []


def test_runs_and_marks_of_an_earlier_boot_are_forgotten_where_the_directory_outlived_it(node, directory, clock):
    directory.forget_other_boots("an-earlier-boot", clock())
    for edge, job in [("start", 7), ("start", 8), ("end", 8)]:
        node.mark(edge, job)
    [mark] = [mark for mark in directory.pending(clock())[0] if mark.job == 7]
    directory.claim(mark, "7@9f3a01c2-1")
    clock.go_on(3600)
    clock.boot_ns = 60 * SECOND  # the node was booted anew a minute ago, and a first prolog came before the sampler
    fresh = node.mark("start", 9)
    directory.forget_other_boots(BOOT_ID, clock())
    assert directory.alive(clock()) == []
    assert [mark.path for mark in directory.pending(clock())[0]] == [str(fresh)]


def test_runs_of_this_boot_are_kept(node, directory, clock):
    directory.forget_other_boots(BOOT_ID, clock())
    node.mark("start", 7)
    [mark], _ = directory.pending(clock())
    directory.claim(mark, "7@9f3a01c2-1")
    directory.forget_other_boots(BOOT_ID, clock.go_on(10))
    assert [key for key, _ in directory.alive(clock())] == ["7@9f3a01c2-1"]


# The directory


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_marks_and_runs_are_roots_only_and_the_poke_is_a_fifo(node, umask):
    before = os.umask(umask)
    try:
        RunDirectory(str(node.run_dir)).prepare()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in node.run_dir.iterdir()}
    assert [stat.S_IMODE(modes[name]) for name in ("marks", "jobs", "poke")] == [0o700, 0o700, 0o600]
    assert stat.S_ISFIFO(modes["poke"])


def test_a_poke_that_is_no_fifo_is_replaced(node):
    node.run_dir.mkdir()
    (node.run_dir / "poke").write_text("a plain file is always readable")
    RunDirectory(str(node.run_dir)).prepare()
    assert (node.run_dir / "poke").is_fifo()


def test_a_mark_that_cannot_be_opened_is_none(node, clock):
    assert read_mark(str(node.run_dir / "missing"), clock()) is None
