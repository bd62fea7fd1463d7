"""What a person sees when something is wrong: what, where, why, and what to do; and the exit code a script sees."""

import os
import subprocess
import sys

import pytest

MAIN = "from eco2ai_hpc.cli import main; main()"


@pytest.fixture
def cli(tmp_path):
    (tmp_path / "site.toml").write_text('cluster = "lab"\n[[region]]\nname = "x"\nnodes = "*"\nzone = "FR"\n')

    def call(*words, path=None, site=None):
        if site is not None:
            (tmp_path / "site.toml").write_text(site)
        environment = {
            "PATH": path or os.environ["PATH"],
            "ECO2AI_HPC_CONFIG": str(tmp_path / "site.toml"),
            "ECO2AI_HPC_LEDGER": str(tmp_path / "ledger.duckdb"),
        }
        command = [sys.executable, "-c", MAIN, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    (tmp_path / "spool").mkdir()
    call.spool = str(tmp_path / "spool")
    call.directory = tmp_path
    return call


def test_a_spool_that_is_not_there(cli):
    done = cli("collect", "/nowhere", "--jobs", "none")
    assert done.returncode == 3
    assert done.stderr == "error: there is no spool directory /nowhere\n  try: eco2ai-hpc collect SPOOL_DIR\n"


def test_an_empty_spool_gives_an_empty_ledger_and_a_report_that_says_so(cli):
    assert cli("collect", cli.spool, "--jobs", "none").returncode == 0
    assert cli("check").returncode == 0
    done = cli("report", "--site")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no data for site site in all time")


def test_an_unknown_region_zone(cli):
    site = 'cluster = "lab"\n[[region]]\nname = "x"\nnodes = "*"\nzone = "FRA"\n'
    done = cli("collect", cli.spool, "--jobs", "none", site=site)
    assert done.returncode == 3
    assert "the factor set ember-2026 has no zone 'FRA'" in done.stderr
    assert "  try: near: FR" in done.stderr


def test_an_unknown_configuration_key(cli):
    done = cli("collect", cli.spool, site='clustre = "lab"\n')
    assert done.returncode == 3
    assert "site.toml:1: unknown key 'clustre'\n  try: did you mean 'cluster'?" in done.stderr


def test_sacct_missing(cli):
    from_nodes(cli)
    done = cli("collect", cli.spool, "--jobs", "sacct", path="/nowhere")
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert "sacct" in done.stderr and "--jobs none" in done.stderr
    assert cli("check").returncode == 0
    assert cli("report", "--site").returncode == 0  # the evidence is in all the same


def test_sacct_failing(cli):
    from_nodes(cli)
    fake = cli.directory / "bin"
    fake.mkdir()
    for name in ("sacct", "scontrol"):
        (fake / name).write_text("#!/bin/sh\necho 'slurm_persist_conn_open: failed' >&2\nexit 1\n")
        (fake / name).chmod(0o755)
    done = cli("collect", cli.spool, "--jobs", "sacct", path=f"{fake}:/usr/bin:/bin")
    assert done.returncode == 4
    assert "slurm_persist_conn_open: failed" in done.stderr


def test_a_job_file_that_is_not_sacct_output(cli):
    from_nodes(cli)
    (cli.directory / "jobs.txt").write_text("hello\n")
    done = cli("collect", cli.spool, "--jobs", str(cli.directory / "jobs.txt"))
    assert done.returncode == 3
    assert "jobs.txt" in done.stderr and "try:" in done.stderr


def test_no_ledger_yet(cli):
    done = cli("report", "--user", "alice")
    assert done.returncode == 1
    assert "there is no ledger at" in done.stderr and "try: eco2ai-hpc collect" in done.stderr


def test_an_unknown_job(cli):
    from_nodes(cli)
    cli("collect", cli.spool, "--jobs", "none")
    done = cli("explain", "4712")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no job 4712 in the ledger")


@pytest.mark.parametrize(
    "words", [["report"], ["report", "--site", "--user", "x"], ["nonsense"], ["report", "--format", "doc"]]
)
def test_wrong_usage(cli, words):
    done = cli(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--month", "2026-13"], ["--from", "yesterday"]])
def test_a_time_that_is_none(cli, words):
    done = cli("report", "--site", *words)
    assert done.returncode == 3
    assert "is not a" in done.stderr


def test_a_ledger_in_use_names_its_owner(cli):
    cli("collect", cli.spool, "--jobs", "none")
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import duckdb, sys; c = duckdb.connect({str(cli.directory / 'ledger.duckdb')!r});"
         "print('held', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    done = cli("report", "--site")
    holder.communicate()
    assert done.returncode == 4
    assert f"is in use by PID {holder.pid}" in done.stderr


def from_nodes(cli):
    """One node's evidence below the spool."""
    from pathlib import Path

    from imaginary_nodes import Node

    node = Node(Path(cli.spool), manager="slurm")
    node.start(0, 4711, "4711@a-1").tick(0, {"rapl:package-0": 0}, jobs={"4711@a-1": {}})
    node.tick(30, {"rapl:package-0": 900}, jobs={"4711@a-1": {"cpu": 5}}).end(30, 4711, "4711@a-1").seal()
