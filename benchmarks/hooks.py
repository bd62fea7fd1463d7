"""What a hook costs a job: prolog and epilog against /bin/true, each as slurmd starts it, with a sampler running.

python benchmarks/hooks.py --output hooks.json
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALLOWED_MEDIAN_MS = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the figures there as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        milliseconds = measure(Path(directory), options.runs)
    figures = {name: summary(values, milliseconds["/bin/true"]) for name, values in milliseconds.items()}
    print(f"{'ms':10} {'median':>8} {'p99':>8} {'+median':>8} {'+p99':>8}")
    for name, figure in figures.items():
        print(f"{name:10} " + " ".join(f"{value:8.2f}" for value in figure.values()))
    if options.output:
        surroundings = {"sh": os.path.realpath("/bin/sh"), "kernel": platform.release(), "cpus": os.cpu_count()}
        record = {"benchmark": "hooks", "runs": options.runs, **surroundings, "figures": figures}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(figure["added_median_ms"] <= ALLOWED_MEDIAN_MS for figure in figures.values()) else 1


def measure(run_dir: Path, runs: int) -> dict[str, list[float]]:
    """Milliseconds of each run. The programs take turns, so that a busy moment of the machine hits all of them."""
    pretend_sampler_runs(run_dir)
    recorded = (ROOT / "tests/hooks/fixtures/prolog-24.11.env").read_text().splitlines()
    env = dict(line.split("=", 1) for line in recorded) | {"ECO2AI_HPC_RUN_DIR": str(run_dir)}
    del env["SLURM_SCRIPT_CONTEXT"]  # the name says which hook it is
    programs = {
        "/bin/true": shutil.which("true"),
        "prolog": ROOT / "prolog_epilog/prolog.sh",
        "epilog": ROOT / "prolog_epilog/epilog.sh",
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            began = time.perf_counter()
            subprocess.run([program], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
            milliseconds[name].append((time.perf_counter() - began) * 1000)
    marks = len(os.listdir(run_dir / "marks"))
    if marks != 2 * runs:
        sys.exit(f"error: {2 * runs} hooks left {marks} marks in {run_dir}")
    return milliseconds


def pretend_sampler_runs(run_dir: Path) -> None:
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (run_dir / "sampler.pid").write_text(f"{os.getpid()} {started}\n")
    os.mkfifo(run_dir / "poke")


def summary(values: list[float], base: list[float]) -> dict[str, float]:
    median, p99 = statistics.median(values), percentile99(values)
    return {
        "median_ms": round(median, 3),
        "p99_ms": round(p99, 3),
        "added_median_ms": round(median - statistics.median(base), 3),
        "added_p99_ms": round(p99 - percentile99(base), 3),
    }


def percentile99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


if __name__ == "__main__":
    sys.exit(main())
