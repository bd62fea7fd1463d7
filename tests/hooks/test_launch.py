"""The prolog makes sure that a sampler runs: one per node, out of slurmd's reach, with nothing of the job in it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_node import eventually, needs_root, recorded, stat_fields

JOB = recorded("prolog-24.11")


@pytest.fixture
def sampler(node):
    """A sampler that only takes the lock and waits. Ended with the test."""
    path = node.directory / "eco2ai-sampler"
    stub = Path(__file__).with_name("stub_sampler.py").read_text()
    path.write_text(f"#!{sys.executable} -IS\n{stub}")
    path.chmod(0o755)
    node.env["ECO2AI_HPC_SAMPLER"] = str(path)
    yield path
    for launch in launches(node):
        with contextlib.suppress(ProcessLookupError):
            os.kill(launch["pid"], signal.SIGKILL)


def launches(node) -> list[dict]:
    record = node.run_dir / "launches"
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def test_a_launched_sampler_outlives_the_hook_and_what_slurmd_does_to_its_group(node, sampler):
    run = node.start("prolog.sh", JOB)
    run.finish()
    run.end_group()
    [launch] = launches(node)
    assert stat_fields(launch["pid"])[0] in "SR"
    assert int(stat_fields(launch["pid"])[3]) == launch["pid"], "it leads its own session"


def test_a_launched_sampler_is_told_where_it_is_and_holds_nothing_of_slurmd(node, sampler):
    node.env["ECO2AI_HPC_SAMPLER_ARGS"] = "--interval 10   --seal-seconds 60 *"
    node.prolog(JOB)
    [launch] = launches(node)
    assert launch["arguments"] == [
        *("run", "--run-dir", str(node.run_dir), "--spool-dir", str(node.spool_dir)),
        *("--cluster", "lab", "--node", "n1", "--interval", "10", "--seal-seconds", "60", "*"),
    ]
    assert launch["open"] == ["/dev/null"] * 3
    assert launch["others"] == []
    assert launch["directory"] == "/"
    assert launch["marks"] == ["start.2"], "the mark comes before the launch"


@pytest.mark.parametrize("version", ["22.05", "24.11"])
def test_a_launched_sampler_keeps_nothing_of_the_job(node, sampler, version):
    names = ("USER", "ACCOUNT", "COMMENT", "EXTRA", "WORK_DIR", "STDOUT", "STDERR")
    node.prolog(recorded(f"prolog-{version}") | {f"SLURM_JOB_{name}": "secret" for name in names})
    [launch] = launches(node)
    assert "secret" not in launch["environment"].values()
    shells_and_pythons = {"OLDPWD", "PWD", "SHLVL", "_", "LC_CTYPE"}
    about_the_node = {"PATH", "SLURMD_NODENAME", "SLURM_CLUSTER_NAME", "SLURM_CONF"}
    assert launch["environment"].keys() - node.env.keys() - shells_and_pythons == about_the_node


def test_flags_for_unknown_names_are_left_out(node, sampler):
    node.prolog({"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": ""})
    [launch] = launches(node)
    assert launch["arguments"] == ["run", "--run-dir", str(node.run_dir), "--spool-dir", str(node.spool_dir)]


def test_a_second_prolog_launches_no_second_sampler(node, sampler):
    for _ in range(2):
        node.prolog(JOB)
    assert len(launches(node)) == 1


def test_prologs_at_the_same_time_get_one_sampler(node, sampler):
    runs = [node.start("prolog.sh", JOB | {"SLURM_JOB_ID": str(job)}) for job in range(1, 5)]
    for run in runs:
        run.finish()
    assert len(launches(node)) == 1
    assert len(node.marks()) == 4


def test_an_epilog_launches_nothing(node, sampler):
    node.epilog(recorded("epilog-24.11"))
    assert launches(node) == []


def test_a_living_sampler_is_recognised_whatever_its_name_is(node, sampler):
    program = node.directory / "a) R 1 (b"
    shutil.copy(shutil.which("sleep"), program)
    process = subprocess.Popen([program, "60"])
    eventually(lambda: "a) R" in Path(f"/proc/{process.pid}/stat").read_text(), "the program does not start")
    node.pretend_sampler_runs(process.pid)
    node.prolog(JOB)
    process.kill()
    process.wait()
    assert launches(node) == []


@pytest.mark.parametrize(
    "content",
    ["", "\n", "junk", "1\n", "1 \n", "{pid} 1\n", "4194304 5\n", "../../etc 5\n", "{zombie}\n"],
    ids=["empty", "blank", "junk", "no time", "no time but blank", "recycled pid", "dead", "path", "zombie"],
)
def test_a_stale_pid_file_does_not_keep_a_sampler_from_starting(node, sampler, content):
    child = subprocess.Popen(["true"])
    eventually(lambda: stat_fields(child.pid)[0] == "Z", "true does not end")
    zombie = f"{child.pid} {stat_fields(child.pid)[19]}"
    node.run_dir.mkdir()
    (node.run_dir / "sampler.pid").write_text(content.format(pid=os.getpid(), zombie=zombie))
    node.prolog(JOB)
    child.wait()
    assert len(launches(node)) == 1


@pytest.mark.parametrize("how", ["called", "linked"])
def test_the_sampler_of_the_hooks_own_prefix_is_found(node, sampler, how):
    prefix = node.directory / "opt with blank"
    (prefix / "bin").mkdir(parents=True)
    shutil.copytree(node.hooks, prefix / "share/eco2ai-hpc/prolog_epilog")
    (prefix / "bin/eco2ai-sampler").symlink_to(sampler)
    node.hooks = prefix / "share/eco2ai-hpc/prolog_epilog"
    if how == "linked":
        (node.directory / "prolog.sh").symlink_to(node.hooks / "prolog.sh")
        node.hooks = node.directory
    del node.env["ECO2AI_HPC_SAMPLER"]
    node.prolog(JOB)
    assert len(launches(node)) == 1


@needs_root
def test_where_systemd_keeps_the_sampler_no_prolog_launches_one(node, sampler, etc):
    (etc / "default/eco2ai-hpc").write_text("ECO2AI_HPC_LAUNCH=systemd\n")
    node.prolog(JOB)
    assert launches(node) == []


@needs_root
def test_other_settings_of_the_file_reach_the_sampler(node, sampler, etc):
    del node.env["ECO2AI_HPC_SAMPLER"]
    (etc / "default/eco2ai-hpc").write_text(
        f'ECO2AI_HPC_SAMPLER={sampler}\nECO2AI_HPC_SAMPLER_ARGS="--tdp-w 280"\nECO2AI_HPC_SEAL_SECONDS=60\n'
    )
    node.prolog(JOB)
    [launch] = launches(node)
    assert launch["arguments"][-2:] == ["--tdp-w", "280"]
    assert launch["environment"]["ECO2AI_HPC_SEAL_SECONDS"] == "60"
