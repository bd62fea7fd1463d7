"""The demonstration, as a person without root and without Slurm runs it, through every stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "eco2ai_hpc", "demo", "--seconds", "3", "--output", str(directory / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory, done.stdout


def test_two_commands_side_by_side_have_figures_that_balance(demo):
    directory, _ = demo
    report = json.loads((directory / "out/report.json").read_text())
    assert report["schema"] == "eco2ai-hpc/report/1"
    busy, half = sorted(report["jobs"], key=lambda job: -job["energy_uj"])
    assert (busy["name"], half["name"]) == ("busy all the time", "busy half the time")
    assert busy["energy_uj"] > half["energy_uj"] > 0
    books = report["books"]
    assert books["counter_uj"] == sum(books[key] for key in ("jobs_uj", "unallocated_uj", "system_uj", "gap_uj"))
    assert books["jobs_uj"] == busy["energy_uj"] + half["energy_uj"] == report["totals"]["energy_uj"]
    assert busy["co2e_kg"] == pytest.approx(busy["energy_kwh"] * report["factors"][0]["intensity_max_g_per_kwh"] / 1000)


def test_it_says_what_was_measured_and_what_was_modelled(demo):
    directory, said = demo
    report = json.loads((directory / "out/report.json").read_text())
    meter = report["meters"][0]
    if meter["zone"].startswith("model:"):
        assert "modelled" in meter["why"]
        assert {job["grade"] for job in report["jobs"]} == {"modelled"}
        assert "odelled" in said
    assert str(directory / "out/report.html") in said


def test_explain_ends_on_the_reports_figure(demo):
    directory, _ = demo
    report = json.loads((directory / "out/report.json").read_text())
    job = report["jobs"][0]
    ledger = next((directory / "out").glob("*/ledger.duckdb"))
    command = [sys.executable, "-m", "eco2ai_hpc", "explain", str(job["job_id"]), "--ledger", str(ledger)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.rstrip().splitlines()[-1].startswith(f"= {job['energy_kwh']!r} kWh, {job['co2e_kg']!r} kg CO2e")
    found = json.loads(
        subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout
    )
    assert found["runs"][0]["energy_uj"] == job["energy_uj"]
    evidence = found["runs"][0]["counter"][0]["first_evidence"].rpartition(":")
    assert json.loads(Path(evidence[0]).read_text().splitlines()[int(evidence[2]) - 1])["k"] == "tick"


def test_no_process_stays_behind(demo):
    directory, _ = demo
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except OSError:
            continue
        assert str(directory) not in command
