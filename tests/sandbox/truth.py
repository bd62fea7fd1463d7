#!/usr/bin/env python3
"""Compare what was booked to each job with what the sandbox's power plant knows it drew.

truth.py LAB [--report SITE.json] [--sacct SACCT.txt] [--json OUT.json]

For each run of a job, between the marks its hooks left on a node:

truth   the run's own dynamic energy, plus its share of the node's idle energy and system work (cpu: by allocated CPUs,
        dram: by allocated memory; a run that holds all CPUs of a node holds all of the node)
law     what the attribution rule makes of perfect inputs: the plant's own energies, idle energies and CPU times, cut at
        the sampler's ticks and at all marks
booked  what `eco2ai-hpc report --site --format json` says

law - truth is due to the power law, which CPU time alone cannot show; booked - law is measurement: late readings, lost
tails, idle power learnt from few intervals.
From SACCT.txt, `sacct -X -D -n -P -o JobIDRaw,AllocTRES,NNodes,JobName`, come memory and names.
"""

import argparse
import bisect
import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

POOLS = ("package", "dram")


class Log:
    """One node's truth log: cumulative, interpolated linearly between lines, which are 10 ms apart while a job runs."""

    def __init__(self, path: Path):
        header, *lines = path.read_text().rpartition("\n")[0].split("\n")  # the last line may be half written
        names = [name.removesuffix("_uj") for name in header.split()[1:-1]]
        self.times: list[int] = []
        self.rows: list[list[int]] = []
        self.jobs: dict[str, tuple[list[int], list[list[int]]]] = defaultdict(lambda: ([], []))
        for line in lines:
            bt, *cells = line.split(" ")
            self.times.append(int(bt))
            self.rows.append([int(cell) for cell in cells[: len(names)]])
            for cell in cells[len(names) :]:
                key, *values = cell.split(":")
                times, rows = self.jobs[key]
                times.append(int(bt))
                rows.append([int(value) for value in values])
        self.columns = {
            (kind, pool): [i for i, name in enumerate(names) if re.fullmatch(rf"{kind}:{pool}(-\d+)?", name)]
            for kind in ("energy", "idle", "system")
            for pool in POOLS
        }
        self.columns["system", "use"] = [names.index("system_us")]

    def between(self, kind: str, pool: str, begin: int, end: int) -> float:
        """Microjoules (for ("system", "use") microseconds) of the whole node from begin to end, boottime ns."""
        a, b = interpolate(self.times, self.rows, begin), interpolate(self.times, self.rows, end)
        return sum(b[i] - a[i] for i in self.columns[kind, pool])

    def job_between(self, job: int, begin: int, end: int) -> dict[str, float]:
        """Dynamic µJ by pool and CPU time in µs ("use") of a job, over all directories that bore its id."""
        total = [0.0, 0.0, 0.0]
        for key, (times, rows) in self.jobs.items():
            if int(key.partition(".")[0]) == job and times[-1] >= begin and times[0] <= end:
                before, after = (interpolate(times, rows, at, unborn=[0, 0, 0]) for at in (begin, end))
                total = [t + y - x for t, x, y in zip(total, before, after, strict=True)]
        return dict(zip((*POOLS, "use"), total, strict=True))

    def jobs_in(self, begin: int, end: int) -> set[int]:
        alive = (key for key, (times, _) in self.jobs.items() if times[-1] >= begin and times[0] <= end)
        return {int(key.partition(".")[0]) for key in alive}


def interpolate(times, rows, at, unborn=None):
    """The row at a moment; before the first it is `unborn`, after the last it stays."""
    right = bisect.bisect_right(times, at)
    if right == 0:
        return unborn or rows[0]
    if right == len(times):
        return rows[-1]
    weight = (at - times[right - 1]) / (times[right] - times[right - 1])
    return [x + (y - x) * weight for x, y in zip(rows[right - 1], rows[right], strict=True)]


@dataclass
class NodeRun:
    """A run on one node, from mark to mark."""

    node: str
    job: int
    key: str
    env: dict[str, str]
    begin: int
    began_at: datetime
    end: int | None = None
    ended_at: datetime | None = None
    share: dict[str, float] = field(default_factory=dict)


def read_spool(directory: Path, node: str, since: int) -> tuple[list[NodeRun], list[int], dict]:
    """The finished runs, the moments of the ticks (boottime ns) and the last header of a node's sealed segments."""
    runs: dict[str, NodeRun] = {}
    ticks: list[int] = []
    header: dict = {}
    for path in sorted(directory.rglob("*.ndjson")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            kind, run = line["k"], line.get("run")
            if kind == "header":
                header = line
            elif line.get("bt", 0) < since:  # an earlier life of the sandbox
                continue
            elif kind == "tick":
                ticks.append(line["bt"])
            elif kind == "job_start":
                runs.setdefault(run, NodeRun(node, line["job"], run, line["env"], line["bt"], moment(line["t"])))
            elif kind == "job_end" and run in runs and runs[run].end is None:
                runs[run].end, runs[run].ended_at = line["bt"], moment(line["t"])
    return [run for run in runs.values() if run.end], sorted(ticks), header


def moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def nodes_of(nodelist: str) -> list[str]:
    """n[1-2,5],m3 → n1 n2 n5 m3"""
    nodes = []
    for prefix, ranges in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?", nodelist):
        for part in ranges.split(",") if ranges else [""]:
            low, _, high = part.partition("-")
            nodes += [f"{prefix}{i:0{len(low)}}" for i in range(int(low), int(high or low) + 1)] if part else [prefix]
    return nodes


def cpus_of(run: NodeRun) -> int:
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", run.env["SLURM_JOB_CPUS_PER_NODE"]):
        counts += [int(count)] * int(times or 1)
    nodes = nodes_of(run.env.get("SLURM_JOB_NODELIST") or run.env["SLURM_NODELIST"])
    return counts[nodes.index(run.node)]


def mebibytes(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)", text).groups()
    return float(number) * 1024 ** ("KMGT".index(unit) - 1 if unit else -2)


def read_sacct(path: Path | None) -> dict[int, dict]:
    """Name and memory per node (MiB) of each job id."""
    jobs = {}
    for line in path.read_text().splitlines() if path else ():
        raw, tres, nodes, name = line.split("|", 3)
        memory = dict(item.rsplit("=", 1) for item in tres.split(",") if item).get("mem", "0")
        jobs[int(raw)] = {"name": name, "mem_mib": mebibytes(memory) / max(1, int(nodes))}
    return jobs


def truth(run: NodeRun, log: Log) -> dict[str, float]:
    own = log.job_between(run.job, run.begin, run.end)
    shared = {pool: sum(log.between(kind, pool, run.begin, run.end) for kind in ("idle", "system")) for pool in POOLS}
    return {pool: own[pool] + run.share[pool] * shared[pool] for pool in POOLS}


def law(run: NodeRun, log: Log, cuts: list[int]) -> float:
    """What "static by reservation, dynamic by use" makes of perfect inputs: a (E_st + E_dy,0) + E_dy,j."""
    total = 0.0
    moments = [run.begin, *(cut for cut in cuts if run.begin < cut < run.end), run.end]
    for begin, end in pairwise(moments):
        system = log.between("system", "use", begin, end)
        use = {job: log.job_between(job, begin, end)["use"] for job in log.jobs_in(begin, end)}
        everyone = system + sum(use.values())
        for pool in POOLS:
            energy = log.between("energy", pool, begin, end)
            static = min(energy, log.between("idle", pool, begin, end)) if everyone else energy
            per_use = (energy - static) / everyone if everyone else 0.0
            total += run.share[pool] * (static + per_use * system) + per_use * use.get(run.job, 0.0)
    return total


def booked_row(rows: list[dict], job: int, began_at: datetime, ended_at: datetime) -> dict | None:
    """The report's row of that job which overlaps most in time: a requeued job has several."""

    def overlap_seconds(row):
        return (
            min(ended_at, moment(row["ended_at_utc"])) - max(began_at, moment(row["started_at_utc"]))
        ).total_seconds()

    candidates = [row for row in rows if row["job_id"] == job and row["ended_at_utc"]]
    best = max(candidates, key=overlap_seconds, default=None)
    return best if best and overlap_seconds(best) > -2 else None  # Slurm's times are whole seconds


def compare(lab: Path, report: dict | None, records: dict[int, dict]) -> dict:
    """The comparison as a dictionary: "jobs", one entry a run, and "site", the counters' energy."""
    per_job: dict[int, list[tuple[NodeRun, dict, float]]] = defaultdict(list)
    counter_uj = 0.0
    for path in sorted(lab.glob("truth/*.log")):
        log, node = Log(path), path.stem
        runs, ticks, header = read_spool(lab / "out/spool" / node, node, log.times[0])
        cuts = sorted({*ticks, *(run.begin for run in runs), *(run.end for run in runs)})
        counter_uj += sum(log.between("energy", pool, ticks[0], ticks[-1]) for pool in POOLS) if ticks else 0
        for run in runs:
            cpu = cpus_of(run) / header["cpus"]
            memory = records.get(run.job, {}).get("mem_mib", 0) / header["mem_mib"]
            run.share = {"package": cpu, "dram": 1.0 if cpu == 1 else memory}
            per_job[run.job].append((run, truth(run, log), law(run, log, cuts)))

    jobs = []
    for job, parts in sorted(per_job.items()):
        for group in overlapping(parts):
            began_at, ended_at = min(run.began_at for run, *_ in group), max(run.ended_at for run, *_ in group)
            true_uj = sum(sum(pools.values()) for _, pools, _ in group)
            law_uj = sum(by_law for *_, by_law in group)
            row = booked_row(report["jobs"], job, began_at, ended_at) if report else None
            entry = {
                "job_id": job,
                "name": records.get(job, {}).get("name"),
                "run_key": row and row["run_key"],
                "nodes": ",".join(sorted(run.node for run, *_ in group)),
                "seconds": round((ended_at - began_at).total_seconds(), 3),
                "truth_uj": round(true_uj),
                "truth_cpu_uj": round(sum(pools["package"] for _, pools, _ in group)),
                "truth_dram_uj": round(sum(pools["dram"] for _, pools, _ in group)),
                "law_uj": round(law_uj),
                "law_error_percent": percent(law_uj - true_uj, true_uj),
                "booked_uj": row and row["energy_uj"],
                "error_percent": None,
                "measurement_error_percent": None,
                "grade": row and row["grade"],
            }
            if row:
                entry["error_percent"] = percent(row["energy_uj"] - true_uj, true_uj)
                entry["measurement_error_percent"] = percent(row["energy_uj"] - law_uj, true_uj)
            jobs.append(entry)
    books = (report or {}).get("books", {})
    return {
        "schema": "eco2ai-hpc/sandbox-truth/1",
        "simulated": True,
        "site": {
            "truth_uj": round(counter_uj),
            "counter_uj": books.get("counter_uj"),
            "error_percent": percent(books["counter_uj"] - counter_uj, counter_uj) if books else None,
        },
        "jobs": jobs,
    }


def overlapping(parts):
    """Parts of one job on several nodes belong to one run where their times overlap."""
    groups = []
    for part in sorted(parts, key=lambda part: part[0].began_at):
        if groups and part[0].began_at < max(run.ended_at for run, *_ in groups[-1]):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def percent(part: float, whole: float) -> float | None:
    return round(100 * part / whole, 3) if whole else None


COLUMNS = {  # of the table: heading → cell of a job
    "job": lambda job: str(job["job_id"]),
    "name": lambda job: job["name"] or "",
    "nodes": lambda job: job["nodes"],
    "seconds": lambda job: f"{job['seconds']:.1f}",
    "truth J": lambda job: joules(job["truth_uj"]),
    "booked J": lambda job: joules(job["booked_uj"]),
    "error %": lambda job: signed(job["error_percent"]),
    "of law %": lambda job: signed(job["law_error_percent"]),
    "of measurement %": lambda job: signed(job["measurement_error_percent"]),
    "grade": lambda job: job["grade"] or "",
}
LEFT = {"name", "nodes", "grade"}


def joules(energy_uj: int | None) -> str:
    return "-" if energy_uj is None else f"{energy_uj / 1e6:.1f}"


def signed(part: float | None) -> str:
    return "-" if part is None else f"{part:+.2f}"


def table(result: dict) -> str:
    cells = {head: [head, *(cell(job) for job in result["jobs"])] for head, cell in COLUMNS.items()}
    width = {head: max(map(len, column)) for head, column in cells.items()}
    padded = ([f"{text:{'<' if head in LEFT else '>'}{width[head]}}" for text in cells[head]] for head in cells)
    site = result["site"]
    return "\n".join(
        (
            *("  ".join(row).rstrip() for row in zip(*padded, strict=True)),
            "",
            f"all counters: truth {joules(site['truth_uj'])} J, booked {joules(site['counter_uj'])} J, "
            f"error {signed(site['error_percent'])} %",
            "Simulated power; real Slurm, cgroups and CPU time.",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lab", type=Path)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--sacct", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = json.loads(options.report.read_text()) if options.report else None
    result = compare(options.lab, report, read_sacct(options.sacct))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    if not result["jobs"]:
        print(f"error: no finished run in the spools below {options.lab}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
