"""What probe tells an admin: what is missing, and the line that would enable it."""

import json

import pytest

from eco2ai_hpc import meters
from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import probe, slurm_conf

GOOD = """# slurm.conf
ClusterName=Alpha
Prolog=/opt/eco2ai-hpc/share/eco2ai-hpc/prolog_epilog/prolog.sh
Epilog=/opt/eco2ai-hpc/share/eco2ai-hpc/prolog_epilog/epilog.sh   # ours
PrologFlags=Alloc,Contain
ProctrackType=proctrack/cgroup
NodeName=n[1-4] CPUs=64 RealMemory=256000
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "slurm.conf").write_text(text)
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        return slurm_conf.hints()

    return write


def test_a_complete_slurm_conf_lacks_nothing(slurm):
    assert slurm(GOOD) == []
    assert slurm_conf.cluster_name() == "alpha"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("Prolog=/opt", "#Prolog=/opt", "Prolog=/opt/eco2ai-hpc/share/eco2ai-hpc/prolog_epilog/prolog.sh"),
        ("Epilog=/opt", "#Epilog=/opt", "Epilog=/opt/eco2ai-hpc/share/eco2ai-hpc/prolog_epilog/epilog.sh"),
        ("PrologFlags=Alloc,Contain", "", "PrologFlags=Alloc,Contain"),
        ("Alloc,Contain", "RunInJob", "ECO2AI_HPC_LAUNCH=systemd"),
        ("proctrack/cgroup", "proctrack/linuxproc", "ProctrackType=proctrack/cgroup"),
    ],
)
def test_what_slurm_conf_lacks_is_named_with_its_line(slurm, old, new, line):
    (hint,) = slurm(GOOD.replace(old, new))
    assert hint["line"].startswith(line)


def test_without_a_slurm_conf_slurm_is_not_spoken_of(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none"))
    monkeypatch.setattr(slurm_conf, "PATHS", ())
    assert slurm_conf.hints() == []
    assert slurm_conf.cluster_name() is None


def test_a_node_without_any_counter_is_told_what_to_do(tmp_path):
    roots = Roots(sysfs=str(tmp_path), cgroupfs=str(tmp_path))
    found = probe.examine(roots, meters.Options())
    lines = [hint["line"] for hint in found["hints"]]
    assert "modprobe intel_rapl_common intel_rapl_msr" in lines
    assert any(line.startswith("ProctrackType=proctrack/cgroup") for line in lines)
    assert json.loads(probe.as_json(found)) == found
    assert "for more:" in probe.as_text(found)
