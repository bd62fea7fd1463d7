"""What the hooks write down."""

import os
import stat
import threading

import pytest
from slurm_node import recorded

CARRIED = """
    SLURM_JOB_ID SLURM_JOB_SLUID SLURM_JOB_UID SLURM_JOB_USER SLURM_JOB_ACCOUNT SLURM_JOB_PARTITION SLURM_JOB_QOS
    SLURM_JOB_RESERVATION SLURM_JOB_RESTART_COUNT SLURM_JOB_NUM_NODES SLURM_NODELIST SLURM_JOB_NODELIST
    SLURM_JOB_CPUS_PER_NODE SLURM_JOB_GPUS CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES SLURM_HET_JOB_ID
    SLURM_JOB_EXCLUSIVE SLURM_JOB_OVERSUBSCRIBE SLURM_JOB_START_TIME SLURM_JOB_END_TIME SLURM_JOB_CORE_SPEC_COUNT
    SLURM_JOB_CORE_SPEC_TYPE SLURM_CLUSTER_NAME SLURMD_NODENAME SLURM_SCRIPT_CONTEXT SLURM_JOB_EXIT_CODE
    SLURM_JOB_EXIT_CODE2 SLURM_JOB_DERIVED_EC
""".split()  # noqa: SIM905
EVERY_BYTE = bytes(range(1, 256))
HOSTILE = {
    "quotes": b"a'b\"c`d",
    "backslashes": rb"\\ \n \0 \c \101 %s %d\\",
    "commands": b"$(touch /tmp/pwned) `touch /tmp/pwned` ${HOME} $((1/0)) ; rm -rf x & | > y",
    "newline": b"first\nSLURM_JOB_ID=999\nlast\n",
    "blanks and globs": b"  * ? [a-z] ~ \t ",
    "option": b"-n",
    "not UTF-8": EVERY_BYTE,
    "long": EVERY_BYTE * 400,
    "empty": b"",
}


def carried(env):
    return {os.fsencode(name): os.fsencode(value) for name, value in env.items() if name in CARRIED}


@pytest.mark.parametrize("version", ["22.05", "24.11"])
def test_a_prolog_and_its_epilog_carry_what_slurmd_said(node, version):
    prolog, epilog = recorded(f"prolog-{version}"), recorded(f"epilog-{version}")
    node.prolog(prolog)
    node.epilog(epilog)
    job = prolog["SLURM_JOB_ID"]
    assert node.marks() == {f"start.{job}": carried(prolog), f"end.{job}": carried(epilog)}


@pytest.mark.parametrize("version", ["22.05", "24.11"])
def test_a_component_of_a_heterogeneous_job_names_its_leader(node, version):
    node.prolog(recorded(f"prolog-het-{version}"))
    assert node.mark("start.11")[b"SLURM_HET_JOB_ID"] == b"10"


def test_every_variable_that_is_set_is_carried_and_no_other(node):
    env = {name: f"value of {name}" for name in CARRIED} | {"SLURM_JOB_ID": "7"}
    node.prolog(env | {"SLURM_JOB_WORK_DIR": "/home/alice", "SLURM_JOB_STDOUT": "/home/alice/o", "SLURM_JOB_NAME": "x"})
    assert node.mark("start.7") == carried(env)


def test_a_comment_with_a_newline_is_not_written_down(node):
    node.prolog(recorded("prolog-22.05") | {"SLURM_JOB_COMMENT": "==1+1|e\nsecond line"})  # as 22.05 passed it on
    assert node.mark("start.7") == carried(recorded("prolog-22.05"))


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_arrives_byte_for_byte(node, value):
    env = {"SLURM_JOB_ID": "7", "SLURM_JOB_ACCOUNT": value, "SLURM_JOB_RESERVATION": value, "SLURM_JOB_COMMENT": value}
    node.prolog(env)
    assert node.mark("start.7") == carried(env)


def test_an_epilog_without_a_prolog_leaves_its_mark(node):
    node.epilog({"SLURM_JOB_ID": "7", "SLURM_JOB_EXIT_CODE": "0"})
    assert node.mark("end.7") == {b"SLURM_JOB_ID": b"7", b"SLURM_JOB_EXIT_CODE": b"0"}


def test_hooks_that_come_twice_leave_two_marks(node):
    for _ in range(2):
        node.epilog({"SLURM_JOB_ID": "7"})
    assert len(list((node.run_dir / "marks").iterdir())) == 2


@pytest.mark.parametrize("job", [None, "", "../../etc/passwd", "7 8", "7\n", "-1"])
def test_without_a_job_id_nothing_is_written(node, job):
    node.prolog({} if job is None else {"SLURM_JOB_ID": job})
    assert not node.run_dir.exists()


@pytest.mark.parametrize(
    "hook, context, edge",
    [
        ("prolog.sh", "epilog_slurmd", "end"),
        ("epilog.sh", "prolog_slurmd", "start"),
        ("hook.sh", "epilog_slurmd", "end"),
        ("hook.sh", "prolog_slurmd", "start"),
    ],
)
def test_slurm_says_which_hook_it_is_whatever_the_file_is_called(node, hook, context, edge):
    node.run(hook, {"SLURM_JOB_ID": "7", "SLURM_SCRIPT_CONTEXT": context})
    assert list(node.marks()) == [f"{edge}.7"]


@pytest.mark.parametrize("copy", ["link", "copy"])
def test_hooks_work_linked_or_copied_into_a_directory_of_the_site(node, copy):
    directory = node.directory / "prolog.d"
    directory.mkdir()
    script = directory / "zz-eco2ai.sh"
    if copy == "link":
        script.symlink_to(node.hooks / "epilog.sh")
    else:
        script.write_bytes((node.hooks / "epilog.sh").read_bytes())
    node.hooks = directory
    node.run(script.name, recorded("epilog-22.05"))
    assert list(node.marks()) == ["end.7"]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_a_missing_run_directory_is_made_with_marks_for_root_only(node, umask):
    node.run_dir = node.directory / "missing" / "run"
    node.prolog({"SLURM_JOB_ID": "7", "ECO2AI_HPC_RUN_DIR": str(node.run_dir)}, umask=umask)

    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    [mark] = (node.run_dir / "marks").iterdir()
    assert (mode(node.run_dir), mode(node.run_dir / "marks"), mode(node.run_dir / "jobs")) == (0o755, 0o700, 0o700)
    assert mode(mark) == 0o600


def test_fifty_prologs_at_once_leave_fifty_whole_marks(node):
    jobs = [str(job) for job in range(1, 51)]
    runs = [node.start("prolog.sh", recorded("prolog-24.11") | {"SLURM_JOB_ID": job}) for job in jobs]
    for run in runs:
        run.finish()
    assert {mark[b"SLURM_JOB_ID"].decode() for mark in node.marks().values()} == set(jobs)


@pytest.mark.parametrize("hook, name", [("prolog.sh", "start.7"), ("epilog.sh", "end.7")])
def test_the_sampler_is_woken_once_the_mark_is_there(node, hook, name):
    node.run_dir.mkdir()
    os.mkfifo(node.run_dir / "poke")
    poke = os.open(node.run_dir / "poke", os.O_RDWR)
    seen = []

    def sampler():
        seen.append((os.read(poke, 10), list(node.marks())))

    reader = threading.Thread(target=sampler, daemon=True)
    reader.start()
    node.run(hook, {"SLURM_JOB_ID": "7"})
    reader.join(3)
    os.close(poke)
    assert seen == [(b".", [name])]


def test_a_poke_that_nobody_reads_is_lost_and_does_no_harm(node):
    node.run_dir.mkdir()
    os.mkfifo(node.run_dir / "poke")
    node.pretend_sampler_runs()
    assert node.prolog({"SLURM_JOB_ID": "7"}) < 1
    assert list(node.marks()) == ["start.7"]


def test_a_poke_that_is_no_fifo_is_left_alone(node):
    node.run_dir.mkdir()
    (node.run_dir / "poke").write_text("mine")
    node.epilog({"SLURM_JOB_ID": "7"})
    assert (node.run_dir / "poke").read_text() == "mine"
