"""Rules of the tree that no single file can see: who may import whom, what reads what, what needs a proof."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).parents[1]
VIEWS = sorted(ROOT.glob("sql/[2-6]_*/*.sql"))
FOLDER = {view.stem: int(view.parent.name[0]) for view in VIEWS}
VIEW = re.compile(r"(?m)^create or replace view (\w+) as$")
PROBE = (
    "import sys, eco2ai_hpc.sampler.loop, eco2ai_hpc.meters as m; [m.load(name) for name in m.names()];"
    "print(*{n.partition('.')[0] for n in sys.modules})"
)


def names(pattern):
    return {path.name.split(".")[0] for path in ROOT.glob(pattern)} - {"__init__", "__pycache__"}


def test_node_side_loads_the_standard_library_only():
    loaded = subprocess.check_output([sys.executable, "-S", "-c", PROBE], cwd=ROOT, text=True).split()
    assert set(loaded) - sys.stdlib_module_names - {"__main__"} == {"eco2ai_hpc"}


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.stem)
def test_a_view_reads_lower_folders_only(view):
    select = VIEW.split(view.read_text())[2].rstrip("; \n")
    connection = duckdb.connect()  # empty: with the views present it would name base tables only
    connection.execute((ROOT / "sql/engine/duckdb.sql").read_text())
    for name in connection.get_table_names(select):
        assert FOLDER.get(name, 1) < FOLDER[view.stem], f"{view.stem} reads {name}"


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.stem)
def test_a_view_bears_its_files_name_and_says_its_grain(view):
    text = view.read_text()
    assert VIEW.findall(text) == [view.stem]
    assert "Grain: " in text, "the header says what one row is"


@pytest.mark.parametrize(
    ("code", "proof"),
    [
        ("eco2ai_hpc/meters/*.py", "tests/fixtures/meters/*"),
        ("eco2ai_hpc/intensity/*.py", "tests/fixtures/intensity/*"),
        ("sql/checks/*.sql", "tests/sql/checks/*"),
    ],
)
def test_nothing_comes_without_its_proof(code, proof):
    assert names(code) == names(proof)


def test_every_command_is_documented():
    documented = set(re.findall(r"(?m)^## (\w+)", (ROOT / "docs/commands.md").read_text()))
    assert names("eco2ai_hpc/cli/*.py") == documented


@pytest.mark.parametrize("name", sorted(names("eco2ai_hpc/cli/*.py")))
def test_every_command_helps_with_an_example(name):
    shown = subprocess.run(
        [sys.executable, "-c", "from eco2ai_hpc.cli import main; main()", name, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"eco2ai-hpc {name}" in shown.split("Example:")[1]


def test_a_node_installs_nothing_but_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == []


def test_shipped_files_are_those_of_the_wheel():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["force-include"]) == {"data", "sql", "reports", "prolog_epilog"}
