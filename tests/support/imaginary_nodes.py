"""Builds spools of imaginary nodes, line by line, for tests of the ledger: what a sampler would have written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from eco2ai_hpc import spool

BOOT = "0ddd7626-ae20-42c2-ad05-c87e9fcd909c"
BEGAN = datetime(2026, 11, 23, 10, 0, 0)
WRAP_UJ = 262_143_328_850


@dataclass
class Node:
    """One node's evidence; times are seconds after BEGAN."""

    root: Path
    name: str = "n1"
    cluster: str = "lab"
    boot: str = BOOT
    run: str = "aaaaaaaa"
    cpus: int = 4
    mem_mib: int = 8000
    interval_s: float = 30
    manager: str = "local"
    zones: dict = field(default_factory=dict)
    seq: int = 0
    lines: list = field(default_factory=list)

    def __post_init__(self):
        self.zones = self.zones or {"rapl:package-0": zone("package")}

    def moment(self, at: float) -> dict:
        utc = BEGAN + timedelta(seconds=at)
        return {"t": utc.isoformat(timespec="microseconds") + "Z", "bt": 1_000_000_000_000 + round(at * 1e9)}

    def tick(self, at: float, counters: dict, *, busy_us: int | None = None, jobs: dict | None = None, why="clock"):
        line = {"k": "tick", **self.moment(at), "why": why, "c": counters, "jobs": jobs or {}}
        if busy_us is not None:
            line["busy"] = {"0": busy_us}
        self.lines.append(line)
        return self

    def start(self, at: float, job: int, run: str, *, cpus: int = 1, env: dict | None = None, uid: int = 5001):
        values = {
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_USER": "alice",
            "SLURM_JOB_ACCOUNT": "proj",
            "SLURM_JOB_CPUS_PER_NODE": str(cpus),
            "SLURM_NODELIST": self.name,
        }
        mark = {"run": run, "job": job, "sluid": None, "uid": uid, "env": values | (env or {}), "gpus": []}
        self.lines.append({"k": "job_start", **self.moment(at), **mark})
        return self

    def end(self, at: float, job: int, run: str):
        mark = {"run": run, "job": job, "sluid": None, "uid": 5001, "why": "epilog", "env": {}}
        self.lines.append({"k": "job_end", **self.moment(at), **mark})
        return self

    def seal(self) -> Path:
        """Write what was gathered as one sealed segment, and begin the next."""
        header = {
            "k": "header", "v": 1, "cluster": self.cluster, "node": self.name, "boot": self.boot, "sampler": self.run,
            "seq": self.seq, **self.moment(0), "interval_s": self.interval_s, "software": "test", "prev": None,
            "cpus": self.cpus, "sockets": 1, "mem_mib": self.mem_mib, "cpu_model": "imaginary",
            "manager": self.manager, "zones": self.zones,
        }  # fmt: skip
        writer = spool.SegmentWriter(spool.node_directory(str(self.root), self.cluster, self.name), header)
        for line in self.lines:
            writer.append(json.loads(json.dumps(line)))
        writer.seal()
        self.lines = []
        self.seq += 1
        return Path(writer.final_path)


def zone(domain: str, *, wrap: int | None = WRAP_UJ, max_uw: int | None = 200_000_000, used: bool = True) -> dict:
    return {"domain": domain, "wrap": wrap, "max_uw": max_uw, "used": used, "why": "test"}


def utc(at: float) -> datetime:
    return (BEGAN + timedelta(seconds=at)).replace(tzinfo=UTC)
