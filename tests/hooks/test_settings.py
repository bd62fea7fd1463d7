"""Where the hooks take their settings from, and the kill switch."""

import pytest
from slurm_node import needs_root

JOB = {"SLURM_JOB_ID": "7"}
HOOKS = pytest.mark.parametrize("hook", ["prolog.sh", "epilog.sh"])
FILE = "default/eco2ai-hpc"


@HOOKS
def test_a_file_in_the_run_directory_switches_hooks_off(node, hook):
    node.run_dir.mkdir()
    (node.run_dir / "disabled").touch()
    node.run(hook, JOB)
    assert [path.name for path in node.run_dir.iterdir()] == ["disabled"]


@needs_root
@HOOKS
def test_a_file_in_etc_switches_hooks_off(node, etc, hook):
    (etc / "eco2ai-hpc").mkdir()
    (etc / "eco2ai-hpc/disabled").touch()
    node.run(hook, JOB)
    assert not node.run_dir.exists()


@needs_root
@pytest.mark.parametrize(
    "line",
    ["{name}={value}", "  {name}={value}  ", '{name}="{value}"', "{name}='{value}'", "#\n\n{name}={value}\n# end"],
    ids=["plain", "indented", "double quotes", "single quotes", "among comments"],
)
def test_the_file_names_the_run_directory(node, etc, line):
    del node.env["ECO2AI_HPC_RUN_DIR"]
    node.run_dir = node.directory / "a $(touch x) 'place'"
    (etc / FILE).write_text(line.format(name="ECO2AI_HPC_RUN_DIR", value=node.run_dir))
    node.prolog(JOB)
    assert list(node.marks()) == ["start.7"]


@needs_root
def test_the_environment_comes_before_the_file(node, etc):
    (etc / FILE).write_text(f"ECO2AI_HPC_RUN_DIR={node.directory}/other\n")
    node.prolog(JOB)
    assert list(node.marks()) == ["start.7"]
    assert not (node.directory / "other").exists()


@needs_root
@HOOKS
@pytest.mark.parametrize(
    "mistake",
    [
        "exit 1",
        "if then ((",
        "ECO2AI_HPC_LAUNCH='",
        "ECO2AI_HPC_A-B=1",
        "ECO2AI_HPC_=1",
        "ECO2AI_HPC_RUN_DIR",
        "= = =",
        "set -eu; PATH=/nowhere",
        "exec /bin/false",
        "x" * 5000,
        "\\",
        "ECO2AI_HPC_Ä=ö",
    ],
    ids=lambda mistake: mistake[:20],
)
def test_a_mistake_in_the_file_spoils_its_own_line_only(node, etc, hook, mistake):
    del node.env["ECO2AI_HPC_RUN_DIR"]
    (etc / FILE).write_text(f"{mistake}\nECO2AI_HPC_RUN_DIR={node.run_dir}\n{mistake}", encoding="utf-8")
    node.run(hook, JOB)
    assert len(node.marks()) == 1


@needs_root
def test_a_file_that_is_no_file(node, etc):
    (etc / FILE).mkdir()
    node.prolog(JOB)
    assert list(node.marks()) == ["start.7"]
