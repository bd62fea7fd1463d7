"""The sandbox itself, as a second one beside whatever else runs here."""

import os
import pwd
import shutil
import subprocess
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or (shutil.which("slurmd") is None and not os.environ.get("ECO2AI_HPC_REQUIRE_SANDBOX")),
        reason="needs root and Slurm: tests/sandbox/install.sh",
    ),
]


def run(script: str, *arguments: str, env: dict[str, str], **options) -> str:
    command = [HERE / script, *arguments]
    return subprocess.run(
        command, env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True, timeout=120, **options
    ).stdout


def traces(env: dict[str, str]) -> dict[str, set[str]]:
    """Whatever a sandbox could leave on this machine."""
    processes = set()
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = status.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if env["LAB"] in command or f" {env['PFX']}1 " in command:
            processes.add(command)
    return {
        "processes": processes,
        "mounts": {line for line in Path("/proc/self/mounts").read_text().splitlines() if env["LAB"] in line},
        "namespaces": {path.name for path in Path("/run/netns").glob(env["NS"])},
        "cgroups": {
            os.path.join(base, folder)
            for base, folders, _ in os.walk("/sys/fs/cgroup")  # bears it that others' cgroups go meanwhile
            for folder in folders
            if any(fnmatch(folder, name) for name in (f"slurm_{env['PFX']}*", f"{env['PFX']}*_slurmstepd.scope"))
        },
        "users": {user.pw_name for user in pwd.getpwall() if user.pw_gecos.endswith(env["NS"])},
        "data": {env["LAB"]} if Path(env["LAB"]).exists() else set(),
    }


NOTHING = {"processes": set(), "mounts": set(), "namespaces": set(), "cgroups": set(), "users": set(), "data": set()}


@pytest.mark.parametrize("cgroup", ["v1", "v2"])
def test_down_leaves_nothing_behind_though_jobs_run(cgroup, tmp_path_factory):
    if cgroup == "v1" and not Path("/sys/fs/cgroup/cpuacct").exists():
        pytest.skip("no cgroup v1 here")
    hooks = tmp_path_factory.mktemp("hooks")
    for hook in ("prolog.sh", "epilog.sh"):
        (hooks / hook).write_text("#!/bin/sh\nexit 0\n")
    lab = f"/tmp/eco2ai-test-{os.getpid()}"
    env = {"LAB": lab, "NS": f"ecotest{os.getpid()}", "PFX": "t", "NODES": "2", "CGROUP": cgroup, "HOOKS": str(hooks)}
    assert traces(env) == NOTHING
    try:
        run("up.sh", env=env)
        sbatch = ["sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", "-N2"]
        job = run("sh.sh", "-u", "alice", *sbatch, f"--wrap=srun {lab}/bin/burn 60", env=env)
        for _ in range(100):
            found = traces(env)
            if len(found["cgroups"]) >= 2 and any("/bin/burn" in process for process in found["processes"]):
                break
            time.sleep(0.1)
        assert job.strip() == "1"
        assert found["processes"] and found["mounts"] and found["namespaces"] and found["cgroups"]
        assert run("sh.sh", "-n", "t2", "hostname", env=env) == "t2\n"
        assert f"--sysfs {lab}/t1/plant/sys" in run("sh.sh", "-n", "t1", "cat", "/etc/default/eco2ai-hpc", env=env)
        assert lab not in subprocess.run(["cat", "/etc/default/eco2ai-hpc"], capture_output=True, text=True).stdout
    finally:
        run("down.sh", "--purge", env=env)
    assert traces(env) == NOTHING


def test_a_second_up_is_refused_with_a_remedy_and_down_without_a_sandbox_does_nothing(tmp_path):
    env = {"LAB": str(tmp_path / "none"), "NS": "ecotest-none", "PFX": "u"}
    assert "nothing to end" in run("down.sh", env=env)
    env = os.environ | env | {"HOOKS": str(tmp_path)}
    refused = subprocess.run([HERE / "up.sh"], env=env, capture_output=True, text=True, timeout=30)
    assert refused.returncode == 4
    assert refused.stderr.startswith("error: no prolog.sh in HOOKS=")
