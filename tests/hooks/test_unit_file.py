"""The systemd unit, as far as it can be judged without systemd running."""

import shutil
import subprocess

import pytest
from slurm_node import HOOKS

UNIT = HOOKS / "eco2ai-sampler.service"


@pytest.fixture
def analyze(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/eco2ai-sampler", "/bin/true"))

    def run(*words):
        return subprocess.run(["systemd-analyze", *words, unit], capture_output=True, text=True)

    return run


def test_systemd_understands_every_line(analyze):
    result = analyze("verify")
    complaints = [line for line in result.stderr.splitlines() if UNIT.name in line]
    assert (result.returncode, complaints) == (0, [])


def test_the_unit_gives_little_away(analyze):
    result = analyze("security", "--offline=yes", "--threshold=30")
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd cannot judge a file")
    assert result.returncode == 0, result.stdout
