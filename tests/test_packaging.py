"""The wheel, as a node and as a server install it: what is shipped is found, and a node needs nothing else."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def node(wheel, tmp_path_factory):
    """A clean environment with the bare wheel, as on a node."""
    prefix = tmp_path_factory.mktemp("node")
    venv.create(prefix, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin/python"), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return prefix


def test_the_wheel_ships_sql_reports_hooks_and_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "eco2ai_hpc/_data/sql/4_job/booking.sql",
        "eco2ai_hpc/_data/reports/jobs.sql",
        "eco2ai_hpc/_data/prolog_epilog/prolog.sh",
        "eco2ai_hpc/_data/data/ember-2026/country_intensity.csv",
        "eco2ai_hpc/_data/data/tdp/eco2ai/LICENSE",
    ):
        assert wanted in names


def test_a_node_probes_with_the_bare_wheel(node):
    done = subprocess.run([node / "bin/eco2ai-sampler", "probe", "--tdp-w", "65"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "model" in done.stdout


def test_a_node_reads_the_shipped_tdp_lists(node):
    code = "from eco2ai_hpc.meters import model; print(model._published_tdp_w('Intel Xeon Platinum 8380')[0])"
    found = subprocess.check_output([node / "bin/python", "-c", code], text=True)
    assert float(found) == 270


def test_the_installed_hooks_are_executable_files(node):
    for hook in ("prolog.sh", "epilog.sh"):
        path = node / "share/eco2ai-hpc/prolog_epilog" / hook
        assert path.is_file() and not path.is_symlink()
        assert os.access(path, os.X_OK)


def test_a_node_is_told_what_the_server_side_needs(node):
    done = subprocess.run([node / "bin/eco2ai-hpc", "check"], capture_output=True, text=True)
    assert done.returncode == 4
    assert "pip install 'eco2ai-hpc[server]'" in done.stderr


def test_a_server_runs_from_the_wheel(wheel, tmp_path):
    """With this environment's libraries, but the wheel's own package."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(target), "ECO2AI_HPC_LEDGER": str(tmp_path / "l.duckdb")}
    (tmp_path / "spool").mkdir()
    call = [sys.executable, "-P", "-m", "eco2ai_hpc"]
    where = subprocess.check_output(
        [sys.executable, "-P", "-c", "from eco2ai_hpc import resources; print(resources.root())"],
        env=environment, cwd=tmp_path, text=True,
    )  # fmt: skip
    assert where.strip() == str(target / "eco2ai_hpc/_data")
    subprocess.run([*call, "collect", "spool", "--jobs", "none"], env=environment, cwd=tmp_path, check=True)
    assert subprocess.run([*call, "check"], env=environment, cwd=tmp_path).returncode == 0
