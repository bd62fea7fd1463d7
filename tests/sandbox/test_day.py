"""A day in the life on a real Slurm, from prolog to report, held against the power plant's own truth.

The power is simulated; Slurm, its hooks, cgroups, accounting and CPU time are real.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the sandbox has nodes with namespaces of their own"),
]


class Lab:
    """One sandbox under names of its own."""

    def __init__(self, prefix, **settings):
        self.path = Path(f"/tmp/eco2ai-{prefix}-{os.getpid()}")
        names = {"LAB": str(self.path), "NS": f"eco2ai-{prefix}", "PFX": prefix}
        self.env = os.environ | names | settings

    def run(self, script, *arguments, timeout=400, check=True):
        return subprocess.run(
            [HERE / script, *arguments], env=self.env, capture_output=True, text=True, timeout=timeout, check=check
        )

    def eco(self, *arguments, check=True):
        """eco2ai-hpc inside the cluster's network, with the day's ledger."""
        settings = [
            f"ECO2AI_HPC_CONFIG={self.path}/etc/eco2ai-hpc.toml",
            f"ECO2AI_HPC_LEDGER={self.path}/out/ledger.duckdb",
        ]
        command = ["env", *settings, sys.executable, "-m", "eco2ai_hpc", *arguments]
        return self.run("sh.sh", *command, check=check)

    @property
    def spools(self):
        return sorted(str(path) for path in self.path.glob("out/spool/*"))

    def __enter__(self):
        self.run("install.sh")
        self.run("up.sh")
        return self

    def __exit__(self, *_):
        self.run("down.sh", "--purge", check=False)


def one_day(lab):
    done = lab.run("day.sh", check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lab.truth = json.loads((lab.path / "out/truth.json").read_text())
    lab.report = json.loads((lab.path / "out/site.json").read_text())
    return lab


@pytest.fixture(scope="module")
def day():
    with Lab("d", QUICK="1") as lab:
        yield one_day(lab)


def error(job):
    return abs(job["booked_uj"] / job["truth_uj"] - 1)


def counted_error(lab):
    return abs(lab.truth["site"]["counter_uj"] / lab.truth["site"]["truth_uj"] - 1)


def run_of(lab, name):
    return [job for job in lab.report["jobs"] if job["name"] == name]


def test_the_books_of_the_day_balance_to_the_microjoule(day):
    books = day.report["books"]
    assert books["counter_uj"] == sum(books[part] for part in ("jobs_uj", "unallocated_uj", "system_uj", "gap_uj"))
    assert books["jobs_uj"] == sum(job["energy_uj"] for job in day.report["jobs"])
    assert day.eco("check").returncode == 0


def test_collecting_twice_changes_nothing(day):
    before = json.loads(day.eco("report", "--site", "--format", "json").stdout)
    again = json.loads(day.eco("collect", *day.spools, "--jobs", "sacct", "--format", "json").stdout)
    assert (again["segments_refused"], again["bad_lines"], again["job_problems"]) == (0, 0, 0)
    after = json.loads(day.eco("report", "--site", "--format", "json").stdout)
    assert [job["energy_uj"] for job in after["jobs"]] == [job["energy_uj"] for job in before["jobs"]]


def test_every_job_of_the_day_has_its_figure_and_its_names(day):
    names = [job["name"] for job in day.report["jobs"]]
    assert {"pair", "heavy", "light", "sleeper", "short", "array", "again", "cancelled"} <= set(names)
    assert all(job["energy_uj"] > 0 for job in day.report["jobs"])
    assert {job["state"] for job in run_of(day, "again")} == {"REQUEUED", "COMPLETED"}
    assert [job["state"] for job in run_of(day, "cancelled")] == ["CANCELLED"]
    assert len({job["job_label"].partition("_")[0] for job in run_of(day, "array")}) == 1
    assert [(job["user"], job["account"]) for job in run_of(day, "light")] == [("bob", "phys")]


def test_an_exclusive_job_on_two_nodes_gets_what_the_nodes_burnt(day):
    (pair,) = [job for job in day.truth["jobs"] if job["name"] == "pair"]
    assert error(pair) <= 5e-3  # over 14 s; the long day holds it to 0.1 % over 60 s
    assert pair["grade"] == "measured"


def test_all_counters_together_are_the_plants_energy(day):
    assert counted_error(day) <= 1e-3


def test_a_report_from_simulated_counters_says_so(day):
    assert day.report["labels"][0].startswith("Simulated counters")
    assert "Simulated counters" in (day.path / "out/site.html").read_text()


def test_a_user_sees_their_jobs_and_an_account_its_own(day):
    users = json.loads(day.eco("report", "--user", "bob", "--format", "json").stdout)
    assert {job["user"] for job in users["jobs"]} == {"bob"}
    account = json.loads(day.eco("report", "--account", "phys", "--format", "json").stdout)
    assert account["totals"]["energy_uj"] == users["totals"]["energy_uj"]


def test_explain_ends_on_the_figure_of_the_report(day):
    (pair,) = run_of(day, "pair")
    told = day.eco("explain", str(pair["job_id"])).stdout.rstrip().splitlines()[-1]
    assert told.startswith(f"= {pair['energy_kwh']!r} kWh, {pair['co2e_kg']!r} kg CO2e")


def test_no_hook_failed_and_no_node_was_drained(day):
    assert day.run("sh.sh", "sinfo", "-h", "-t", "drain,down", "-o", "%N").stdout.strip() == ""
    for log in day.path.glob("log/slurmd-*.log"):
        text = log.read_text(errors="replace").lower()
        assert "prolog failed" not in text and "epilog failed" not in text


def test_each_node_ran_one_sampler_that_survived_all_jobs(day):
    for node in ("d1", "d2", "d3"):
        spool = day.path / node / "private/var/spool/eco2ai-hpc/lab" / node
        runs = {path.name.split("-")[1] for path in spool.iterdir()}
        assert len(runs) == 1, f"{node} had {len(runs)} samplers"


def test_it_works_without_a_prolog_at_allocation():
    """PrologFlags empty: the second node of a batch job gets an epilog and never a prolog."""
    with Lab("w", PROLOG_FLAGS="") as lab:
        submit = ["-u", "alice", "sbatch", "--parsable", "--wait", "--chdir=/tmp", "--output=/dev/null"]
        lab.run("sh.sh", *submit, "-N2", "--exclusive", "--wrap=srun -N2 true")  # starts both samplers
        lab.run("sh.sh", *submit, "-N2", "--exclusive", f"--wrap={lab.path}/bin/burn 6 2")
        lab.run("day.sh", "account", check=False)
        report = json.loads((lab.path / "out/site.json").read_text())
        job = report["jobs"][-1]
        assert job["nodes"] == "w[1-2]"
        assert job["energy_uj"] > 0
        assert lab.eco("check").returncode == 0
        marks = {}
        for path in lab.path.glob("*/private/var/spool/eco2ai-hpc/lab/*/*"):
            for line in map(json.loads, path.read_text().splitlines()):
                if line["k"] in ("job_start", "job_end") and line["job"] == job["job_id"]:
                    marks.setdefault(path.parent.name, []).append(line["k"])
        assert sorted(map(sorted, marks.values())) == [["job_end"], ["job_end", "job_start"]]


@pytest.mark.slow
@pytest.mark.parametrize("cgroup", ["v1", "v2"])
def test_the_long_day_is_right_to_a_tenth_of_a_per_cent_where_the_rule_is(cgroup):
    with Lab("l", CGROUP=cgroup, IDLE_SECONDS="40") as lab:
        one_day(lab)
        (pair,) = [job for job in lab.truth["jobs"] if job["name"] == "pair"]
        assert pair["seconds"] >= 60
        assert error(pair) <= 1e-3
        assert counted_error(lab) <= 1e-4
