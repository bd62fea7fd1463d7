"""truth.py on a node of which everything is known by hand."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import truth

SECOND = 1_000_000_000
HEADER = (
    "bt_ns energy:package-0_uj energy:package-1_uj energy:dram-0_uj energy:dram-1_uj "
    "idle:package-0_uj idle:package-1_uj idle:dram-0_uj idle:dram-1_uj "
    "system:package_uj system:dram_uj system_us jobs=id.sequence:package_uj:dram_uj:cpu_us"
)


def line(k: str, seconds: float, **more):
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return json.dumps({"k": k, "t": at.isoformat(), "bt": int(seconds * SECOND), **more})


def start(seconds: float, job: int, cpus: str) -> str:
    return line(
        "job_start",
        seconds,
        run=f"{job}@ab-1",
        job=job,
        env={"SLURM_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": cpus},
    )


@pytest.fixture
def lab(tmp_path):
    """Ten seconds of n1: idle 20 W + 20 W and 2 W + 2 W; system 1 W and 10 % of a CPU; two jobs from second 2 to 8."""
    rows = [HEADER]
    for second in range(11):
        worked = min(max(second - 2, 0), 6)
        idle = second * 1_000_000
        own = [(60, 6), (20, 2)]  # W in cpu and dram of job 7 and job 8, which use a CPU each
        packages = [20 * idle + idle + own[0][0] * worked * 1_000_000, 20 * idle + own[1][0] * worked * 1_000_000]
        drams = [2 * idle + own[0][1] * worked * 1_000_000, 2 * idle + own[1][1] * worked * 1_000_000]
        cells = [
            second * SECOND,
            *packages,
            *drams,
            20 * idle,
            20 * idle,
            2 * idle,
            2 * idle,
            idle,
            0,
            second * 100_000,
        ]
        jobs = [
            f"{job}.1:{cpu * worked * 1_000_000}:{dram * worked * 1_000_000}:{worked * 1_000_000}"
            for job, (cpu, dram) in zip((7, 8), own, strict=True)
        ]
        rows.append(" ".join(map(str, cells)) + (" " + " ".join(jobs) if 2 <= second <= 8 else ""))
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/n1.log").write_text("\n".join(rows) + "\n123 half a li")
    spool = tmp_path / "out/spool/n1/lab/n1"
    spool.mkdir(parents=True)
    lines = [
        line("header", 0, cpus=4, mem_mib=4000),
        *(line("tick", second, c={}) for second in (0, 5, 10)),
        start(2, 7, "2,1"),
        start(2, 8, "1(x2)"),
        line("job_end", 8, run="7@ab-1"),
        line("job_end", 8, run="8@ab-1"),
    ]
    (spool / "a.ndjson").write_text("\n".join(lines) + "\n")
    (tmp_path / "sacct.txt").write_text(
        "7|billing=3,cpu=3,mem=2000M,node=2|2|hea|vy\n8|cpu=2,mem=1.953125G,node=2|2|light\n"
    )
    return tmp_path


def test_a_job_draws_its_own_energy_and_its_share_of_idle_and_system(lab):
    result = truth.compare(lab, None, truth.read_sacct(lab / "sacct.txt"))
    heavy, light = result["jobs"]
    assert (heavy["name"], light["name"]) == ("hea|vy", "light")
    assert heavy["truth_cpu_uj"] == (60 + 2 / 4 * 41) * 6e6
    assert heavy["truth_dram_uj"] == (6 + 1000 / 4000 * 4) * 6e6
    assert light["truth_cpu_uj"] == (20 + 1 / 4 * 41) * 6e6
    assert result["site"]["truth_uj"] == 10 * (41 + 4) * 1e6 + 6 * 88e6


def test_the_law_shares_dynamic_energy_by_cpu_time_and_so_errs_by_the_instruction_mix(lab):
    heavy, light = truth.compare(lab, None, truth.read_sacct(lab / "sacct.txt"))["jobs"]
    per_use_cpu, per_use_dram = 81 / 2.1, 8 / 2.1  # dynamic W per CPU: jobs use 2, the system 0.1
    by_law = 2 / 4 * (40 + 0.1 * per_use_cpu) + per_use_cpu + 1 / 4 * (4 + 0.1 * per_use_dram) + per_use_dram
    assert heavy["law_uj"] == pytest.approx(by_law * 6e6, abs=1)
    assert heavy["law_error_percent"] < 0 < light["law_error_percent"]


def test_booked_rows_are_found_by_job_and_time_and_the_error_is_split(lab):
    def row(job, hour, uj):
        return {
            "job_id": job,
            "run_key": f"{job}/{hour}",
            "energy_uj": uj,
            "grade": "measured",
            "started_at_utc": f"2026-01-01T{hour:02}:00:02",
            "ended_at_utc": f"2026-01-01T{hour:02}:00:08Z",
        }

    report = {"jobs": [row(7, 3, 5), row(7, 0, 500_000_000)], "books": {"counter_uj": 978_000_000}}
    result = truth.compare(lab, report, truth.read_sacct(lab / "sacct.txt"))
    heavy, light = result["jobs"]
    assert heavy["run_key"] == "7/0"
    assert heavy["error_percent"] == pytest.approx(
        heavy["law_error_percent"] + heavy["measurement_error_percent"], abs=0.002
    )
    assert light["booked_uj"] is None
    assert result["site"]["error_percent"] == 0
    assert "500.0" in truth.table(result)


@pytest.mark.parametrize(
    "text, nodes",
    [("n1", ["n1"]), ("n[1-2,5],m3", ["n1", "n2", "n5", "m3"]), ("n[08-10]", ["n08", "n09", "n10"])],
)
def test_node_lists_are_expanded_in_order(text, nodes):
    assert truth.nodes_of(text) == nodes


def test_memory_is_read_in_mebibytes():
    assert [truth.mebibytes(text) for text in ("1500M", "2G", "512K")] == [1500, 2048, 0.5]


def test_an_earlier_life_of_the_sandbox_is_not_compared(lab):
    log = lab / "truth/n1.log"
    header, *rows = log.read_text().splitlines()
    log.write_text("\n".join([header, *rows[4:-1]]) + "\n")  # begins at second 4
    assert truth.compare(Path(lab), None, {})["jobs"] == []
