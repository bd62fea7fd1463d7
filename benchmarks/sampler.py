"""What the resident sampler costs a node: memory, CPU time, and how soon after its start it has read the counters.

Over a recorded node (two sockets, four RAPL zones): one sampler without jobs, one with eight, one with 256 jobs, 30 s
between ticks. Their cgroups are files, and stand still: a kernel's take longer to read, the more CPUs it has.
CPU time is that between the first reading and the end of the measurement, in ns as the scheduler counts it
(/proc/PID/schedstat), scaled to an hour; jobs are young, so they are looked at more often than an hour's average.

python benchmarks/sampler.py --output sampler.json
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NODE = ROOT / "tests/fixtures/meters/rapl/intel-two-sockets-with-dram"
JOBS = (8, 256)
CGROUP = {
    "cpu.stat": "usage_usec 61234567\nuser_usec 60000000\nsystem_usec 1234567\n", "memory.current": "4111491072\n",
    "memory.max": "68719476736\n", "cpuset.cpus.effective": "0-15\n", "cgroup.events": "populated 1\nfrozen 0\n",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=65.0, metavar="S", help="to measure (default: %(default)g)")
    parser.add_argument("--starts", type=int, default=20, metavar="N", help="to time (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        starts = [start_ms(Path(directory) / f"start{number}") for number in range(options.starts)]
        figures = resident(Path(directory), options.seconds)
    record = {
        "benchmark": "sampler", "python": platform.python_version(), "kernel": platform.release(),
        "cpus": os.cpu_count(), "interval_s": 30, "measured_seconds": options.seconds, "jobs": JOBS,
        "first_reading_ms": {"starts": len(starts), "median": statistics.median(starts), "max": max(starts)},
        "figures": figures,
    }  # fmt: skip
    text = json.dumps(record, indent=1)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")
    return 0


class Running:
    """One sampler in the foreground, on a copy of the node."""

    def __init__(self, directory: Path, jobs: int = 0) -> None:
        shutil.copytree(NODE, directory / "node", symlinks=True)
        marks = directory / "run/marks"
        marks.mkdir(parents=True)
        uptime = Path("/proc/uptime").read_text().split()[0]
        for job in range(1, jobs + 1):
            records = (
                "mark=1",
                "edge=start",
                f"uptime={uptime}",
                f"SLURM_JOB_ID={job}",
                "SLURM_JOB_UID=5001",
                "complete=1",
            )
            (marks / f"start.{job}.1").write_text("".join(f"{record}\0" for record in records))
            cgroup = directory / f"node/cgroup/system.slice/slurmstepd.scope/job_{job}"
            (cgroup / "step_extern").mkdir(parents=True)
            for name, text in CGROUP.items():
                (cgroup / name).write_text(text)
        if jobs:
            (cgroup.parent / "cpu.stat").write_text(f"usage_usec {61234567 * jobs}\n")
        self.segments = directory / "spool/lab/n1"
        words = [sys.executable, "-m", "eco2ai_hpc.sampler", "run", "--foreground", "--cluster", "lab", "--node", "n1"]
        words += ["--run-dir", str(directory / "run"), "--spool-dir", str(directory / "spool")]
        for flag, name in (("--sysfs", "sys"), ("--procfs", "proc"), ("--cgroupfs", "cgroup")):
            words += [flag, str(directory / "node" / name)]
        self.began = time.perf_counter()
        self.process = subprocess.Popen(words, cwd=ROOT)

    def wait_for_reading(self) -> float:
        """Milliseconds from exec until the first tick is in the file."""
        while not any(b'{"k":"tick"' in path.read_bytes() for path in self.segments.glob("*.part")):
            if self.process.poll() is not None or time.perf_counter() - self.began > 20:
                sys.exit("error: the sampler did not start")
            time.sleep(0.001)
        return round((time.perf_counter() - self.began) * 1000, 1)

    def cpu_ns(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0])

    def memory_kib(self) -> dict[str, int]:
        found = {}
        for name in ("status", "smaps_rollup"):
            for line in Path(f"/proc/{self.process.pid}/{name}").read_text().splitlines()[1:]:
                key, _, value = line.partition(":")
                if key in ("VmRSS", "VmHWM", "Pss"):
                    found[f"{key.lower()}_kib"] = int(value.split()[0])
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


def start_ms(directory: Path) -> float:
    sampler = Running(directory)
    try:
        return sampler.wait_for_reading()
    finally:
        sampler.stop()


def resident(directory: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Memory and CPU time of a sampler without jobs and of one with some, side by side."""
    samplers = {f"{jobs} jobs": Running(directory / f"with{jobs}", jobs) for jobs in (0, *JOBS)}
    figures: dict[str, dict[str, float]] = {}
    try:
        for sampler in samplers.values():
            sampler.wait_for_reading()
        time.sleep(0.5)
        before = {name: (sampler.cpu_ns(), time.perf_counter()) for name, sampler in samplers.items()}
        time.sleep(seconds)
        for name, sampler in samplers.items():
            used_ns, elapsed = sampler.cpu_ns() - before[name][0], time.perf_counter() - before[name][1]
            figures[name] = {
                **sampler.memory_kib(),
                "cpu_ms": round(used_ns / 1e6, 2),
                "cpu_seconds_per_hour": round(used_ns / 1e9 / elapsed * 3600, 2),
                "start_cpu_ms": round(before[name][0] / 1e6, 1),
            }
    finally:
        for sampler in samplers.values():
            sampler.stop()
    return figures


if __name__ == "__main__":
    sys.exit(main())
