"""What the sampler costs a node, on the kernel's own job cgroups (v1: cpuacct, memory, cpuset), and what others cost.

python benchmarks/node.py --output benchmarks/results/node.json      (as root; --quick while developing)

README.md in this folder says what each part measures and how to read it.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import trackers

ROOT = Path(__file__).parents[1]
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpuacct", "memory", "cpuset")
MARK = ROOT / "tests/hooks/fixtures/prolog-24.11.env"
AN_HOUR_S = 3600
TDP_W = 100
WORK = "import sys\nfor _ in range(int(sys.argv[1])): sum(range(20000))"


class Plan(NamedTuple):
    """How much of everything."""

    starts: int
    seconds: float
    jobs: tuple[int, ...]
    zones: tuple[int, ...]
    pairs: int
    work_s: float
    load_s: float


FULL = Plan(starts=20, seconds=120, jobs=(1, 16, 64, 256), zones=(2, 48), pairs=15, work_s=2.0, load_s=45)
QUICK = Plan(starts=3, seconds=10, jobs=(1, 4, 16, 64), zones=(2, 48), pairs=2, work_s=0.5, load_s=6)
JOBS, ZONES, GROWTH_JOBS = 64, 12, 16
PARTS = ("first_reading", "resident", "slowdown", "trackers")
SEAL_OFTEN = ("--seal-seconds", "20")
ASLEEP = ("sleep", "infinity")
AWAKE = ("tail", "-f", "-s", "2", "/dev/null")  # a glance every other second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="see that it works: the figures mean nothing")
    parser.add_argument("--cache", type=Path, default=_cache(), metavar="DIR", help="others' environments: %(default)s")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; --output keeps its other parts")
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the figures there too")
    options = parser.parse_args()
    if os.geteuid() != 0 or not all((CGROUPS / name / "tasks").exists() for name in CONTROLLERS):
        sys.exit(f"error: needs root and cgroup v1 below {CGROUPS}: {', '.join(CONTROLLERS)}")
    plan = QUICK if options.quick else FULL
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        record = measure(plan, options.part or PARTS, Path(directory), options.cache)
    if options.part and options.output and options.output.exists():
        record = json.loads(options.output.read_text()) | record
    text = json.dumps(record, indent=1)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")
    return 0


def measure(plan: Plan, wanted: Sequence[str], directory: Path, cache: Path) -> dict[str, Any]:
    for package in (tracker["packages"] for tracker in trackers.TRACKERS.values()):
        trackers.install(package, cache)  # before anything is timed
    record: dict[str, Any] = {"benchmark": "node", "machine": machine()}
    parts = {
        "first_reading": lambda: first_reading(plan, directory / "first"),
        "resident": lambda: resident(plan, directory / "resident"),
        "slowdown": lambda: slowdown(plan, directory / "slowdown"),
        "trackers": lambda: beside_others(plan, directory / "trackers", cache),
    }
    for name in wanted:
        before, began = os.getloadavg()[0], time.monotonic()
        found = parts[name]()
        lasted, after = round(time.monotonic() - began), os.getloadavg()[0]
        about = {"revision": _revision(), "seconds": lasted, "load_average": [round(before, 2), round(after, 2)]}
        record[name] = about | found
    return record


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return {
        "cpu_model": names[0] if names else "",
        "cpus": os.cpu_count(),
        "virtual": " hypervisor" in cpuinfo,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cgroup": "v1, the kernel's own",
        "counters": "files in a tmpfs in powercap's form; the kernel's cost of reading a real counter is not in here",
    }


def _revision() -> str:
    """Of the code that was measured; `-dirty` where it has changes of its own."""
    words = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


# --- a node


@contextlib.contextmanager
def slurm_cgroups(node: str, jobs: int, program: tuple[str, ...] = ASLEEP) -> Iterator[None]:
    """Cgroups of so many jobs as slurmd makes them, each with a process if any; nothing is left of them."""
    steps = [f"slurm_{node}/uid_0/job_{job}/step_extern" for job in range(1, jobs + 1)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for step in steps:
            for controller in CONTROLLERS:
                _make_cgroup(CGROUPS / controller, step)
            if program:
                processes.append(subprocess.Popen(program))
                enter(step, processes[-1].pid)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for controller in CONTROLLERS:
            _remove_cgroups(CGROUPS / controller / f"slurm_{node}")


def _make_cgroup(base: Path, path: str) -> None:
    """A cpuset takes no process before it was given CPUs and memory."""
    for part in Path(path).parts:
        above, base = base, base / part
        base.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (above / name).exists():
                (base / name).write_text((above / name).read_text())


def enter(step: str, pid: int) -> None:
    for controller in CONTROLLERS:
        (CGROUPS / controller / step / "cgroup.procs").write_text(str(pid))


def _remove_cgroups(top: Path) -> None:
    for path, _, _ in os.walk(top, topdown=False):
        for _ in range(50):
            with contextlib.suppress(OSError):
                os.rmdir(path)
                break
            time.sleep(0.02)  # the kernel is still letting go of the last process


def make_zones(sysfs: Path, count: int) -> None:
    """Sockets with a dram zone each."""
    for number in range(count):
        entry = f"intel-rapl:{number // 2}" + (":0" if number % 2 else "")
        folder = sysfs / "class/powercap" / entry
        folder.mkdir(parents=True)
        (folder / "name").write_text("dram\n" if number % 2 else f"package-{number // 2}\n")
        (folder / "max_energy_range_uj").write_text("262143328850\n")
        (folder / "constraint_0_max_power_uw").write_text("400000000\n")
        (folder / "energy_uj").write_text(f"{123456789 * (number + 1)}\n")


class Sampler:
    """One sampler on a node of its own, with jobs of a given age; cgroups are the kernel's."""

    def __init__(self, directory: Path, node: str, *, zones: int = ZONES, jobs: int = 0, age_s: float = 0) -> None:
        self.directory = directory
        self.run_dir = directory / "run"
        self._words = [sys.executable, "-m", "eco2ai_hpc.sampler", "run", "--foreground", "--cluster", "lab"]
        self._words += ["--node", node, "--run-dir", str(self.run_dir), "--spool-dir", str(directory / "spool")]
        if zones:
            make_zones(directory / "sys", zones)
            self._words += ["--sysfs", str(directory / "sys")]
        (self.run_dir / "marks").mkdir(parents=True)
        for job in range(1, jobs + 1):
            self.mark("start", job, age_s)

    def mark(self, edge: str, job: int, age_s: float = 0.0, **more: str) -> None:
        """What a hook leaves; dated back, so that a job can be old at once."""
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        env = dict(line.split("=", 1) for line in MARK.read_text().splitlines())
        env |= {"SLURM_JOB_ID": str(job), "SLURM_JOB_UID": "0", **more}
        records = {"mark": "1", "edge": edge, "uptime": f"{uptime_s - age_s:.2f}", **env, "complete": "1"}
        partial = self.run_dir / "marks/.tmp.1"
        partial.write_bytes(b"".join(f"{key}={value}\0".encode() for key, value in records.items()))
        then = time.time() - age_s
        os.utime(partial, (then, then))
        partial.rename(partial.with_name(f"{edge}.{job}.1"))
        if (self.run_dir / "poke").exists():
            poke = os.open(self.run_dir / "poke", os.O_RDWR | os.O_NONBLOCK)
            os.write(poke, b".")
            os.close(poke)

    def start(self, *more: str) -> float:
        """Milliseconds from exec until its first tick is in the file."""
        began = time.perf_counter()
        self._process = subprocess.Popen([*self._words, *more], cwd=ROOT)
        while not self._has_ticked():
            if self._process.poll() is not None or time.perf_counter() - began > 20:
                self._process.kill()
                sys.exit("error: the sampler did not start")
            time.sleep(0.001)
        return (time.perf_counter() - began) * 1000

    def _has_ticked(self) -> bool:
        return any(b'{"k":"tick"' in path.read_bytes() for path in self.directory.glob("spool/*/*/*.part"))

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)

    def spool_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.directory.glob("spool/*/*/*"))

    def cpu_ns(self) -> int:
        return sum(map(_cpu_ns, self._tree()))

    def memory_kib(self) -> dict[str, int]:
        """Of the sampler and its children together."""
        totals = {"rss_kib": 0, "pss_kib": 0, "processes": 0}
        for pid in self._tree():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            sizes = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
            totals["rss_kib"] += sizes["Rss"]
            totals["pss_kib"] += sizes["Pss"]
            totals["processes"] += 1
        return totals

    def _tree(self) -> list[int]:
        found, pending = [], [self._process.pid]
        while pending:
            found.append(pending.pop())
            for path in Path(f"/proc/{found[-1]}/task").glob("*/children"):
                pending += map(int, path.read_text().split())
        return found


def _cpu_ns(pid: int) -> int:
    """As the scheduler counted it, all threads; what ended children used has only the clock tick's grain."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended_s = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return sum(int(path.read_text().split()[0]) for path in threads) + round(ended_s * 1e9)


# --- the parts


def first_reading(plan: Plan, directory: Path) -> dict[str, Any]:
    """Milliseconds from exec to the first tick in the file: on a fresh node, and where a sampler left live jobs."""
    fresh = []
    for number in range(plan.starts):
        sampler = Sampler(directory / f"fresh{number}", "bench")
        fresh.append(sampler.start())
        sampler.stop()
    with slurm_cgroups("bench", JOBS):
        sampler = Sampler(directory / "again", "bench", jobs=JOBS, age_s=_age_s())
        again = []
        for _ in range(plan.starts + 1):
            again.append(sampler.start())
            time.sleep(0.1)
            sampler.stop()
    return {"zones": ZONES, "fresh_ms": spread(fresh), f"with_{JOBS}_jobs_left_ms": spread(again[1:])}


def resident(plan: Plan, directory: Path) -> dict[str, Any]:
    """Memory and CPU time of samplers side by side over one window, each on a node of its own."""
    grid = [(f"{jobs} jobs, {ZONES} zones, old", f"j{jobs}", jobs, ZONES, _age_s(), ()) for jobs in plan.jobs]
    grid += [
        (f"{GROWTH_JOBS} jobs, {zones} zones, old", f"z{zones}", GROWTH_JOBS, zones, _age_s(), ())
        for zones in plan.zones
    ]
    grid += [
        (f"{JOBS} jobs, {ZONES} zones, old, awake", "awake", JOBS, ZONES, _age_s(), ()),
        (f"{JOBS} jobs, {ZONES} zones, young", f"j{JOBS}", JOBS, ZONES, 0, ()),
        (
            f"{JOBS} jobs, {ZONES} zones, old, sealing often",
            f"j{JOBS}",
            JOBS,
            ZONES,
            _age_s(),
            ("--seal-seconds", "20"),
        ),
    ]
    nodes = {node: jobs for _, node, jobs, *_ in grid}
    with contextlib.ExitStack() as stack:
        for node, jobs in nodes.items():
            stack.enter_context(slurm_cgroups(f"bench-{node}", jobs, AWAKE if node == "awake" else ASLEEP))
        samplers = {}
        for number, (name, node, jobs, zones, age_s, more) in enumerate(grid):
            sampler = Sampler(directory / str(number), f"bench-{node}", zones=zones, jobs=jobs, age_s=age_s)
            sampler.start(*more)
            stack.callback(sampler.stop)
            samplers[name] = sampler
        bare = stack.enter_context(_bare_python())
        time.sleep(2)
        found = _watch(samplers, plan.seconds)
        reference = _pss_rss(bare)
    for (_, _, jobs, zones, age_s, _), figures in zip(grid, found.values(), strict=True):
        figures |= {"jobs": jobs, "zones": zones, "job_age_s_at_start": round(age_s)}
    return {
        "interval_s": 30,
        "window_s": plan.seconds,
        "extrapolated": "CPU time and spool of an hour are those of the window times 3600 / window_s",
        "bare_python": reference,
        "samplers": found,
        "growth": growth(list(found.values())),
    }


def growth(samplers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What one more job, and one more counter, adds: the difference between the most and the fewest, per piece."""
    found = {}
    for what, other, fixed in (("jobs", "zones", ZONES), ("zones", "jobs", GROWTH_JOBS)):
        # The first of a kind: later ones of the same size differ in something else.
        sizes = {figures[what]: figures for figures in reversed(samplers) if figures[other] == fixed}
        few, many = sizes[min(sizes)], sizes[max(sizes)]
        pieces = many[what] - few[what]
        units = ("cpu_seconds_per_hour", "rss_kib", "spool_kib_per_hour")
        found[f"each of {few[what]} to {many[what]} {what}"] = {
            unit: round((many[unit] - few[unit]) / pieces, 4) for unit in units
        }
    return found


def _watch(samplers: dict[str, Sampler], seconds: float) -> dict[str, dict[str, Any]]:
    def now(sampler: Sampler) -> tuple[int, int, int, float]:
        segments = len(list(sampler.directory.glob("spool/*/*/*.ndjson")))
        return sampler.cpu_ns(), sampler.spool_bytes(), segments, time.monotonic()

    before = {name: now(sampler) for name, sampler in samplers.items()}
    time.sleep(seconds)
    found = {}
    for name, sampler in samplers.items():
        cpu_ns, size, segments, elapsed = (b - a for a, b in zip(before[name], now(sampler), strict=True))
        found[name] = {
            **sampler.memory_kib(),
            "cpu_ms": round(cpu_ns / 1e6, 2),
            "cpu_seconds_per_hour": round(cpu_ns / 1e9 / elapsed * 3600, 3),
            "start_cpu_ms": round(before[name][0] / 1e6, 1),
            "spool_kib_per_hour": round(size / 1024 / elapsed * 3600),
            "seals": segments,
        }
    return found


@contextlib.contextmanager
def _bare_python() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _pss_rss(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
    return {"rss_kib": sizes["Rss"], "pss_kib": sizes["Pss"]}


def slowdown(plan: Plan, directory: Path) -> dict[str, Any]:
    """Fixed work on all CPUs, with and without a sampler, in turns; the first of a pair alternates."""
    rounds = _calibrate(plan.work_s)
    found: dict[bool, list[Work]] = {True: [], False: []}
    taken_s = []
    with slurm_cgroups("bench", JOBS):
        for pair in range(plan.pairs):
            for with_sampler in (pair % 2 == 0, pair % 2 == 1):
                sampler = Sampler(directory / f"{pair}{with_sampler}", "bench", jobs=JOBS, age_s=_age_s())
                sampler.start()  # without a sampler too, so that both follow upon the same
                if not with_sampler:
                    sampler.stop()
                time.sleep(0.3)
                before_ns = sampler.cpu_ns() if with_sampler else 0
                if with_sampler:
                    sampler.mark("start", JOBS + 1)
                found[with_sampler].append(_work(rounds))
                if with_sampler:
                    sampler.mark("end", JOBS + 1)
                    time.sleep(0.1)
                    taken_s.append((sampler.cpu_ns() - before_ns) / 1e9)
                    sampler.stop()
    pairs = list(zip(found[True], found[False], strict=True))
    cpus = os.cpu_count() or 1
    shares = [seconds / (cpus * work.wall_s) for seconds, work in zip(taken_s, found[True], strict=True)]
    return {
        "work": f"{cpus} processes, {rounds} rounds each; start and end are marked",
        "wall_s_without": spread([work.wall_s for work in found[False]], 4),
        "wall_s_with": spread([work.wall_s for work in found[True]], 4),
        "wall_ratio_of_pairs": spread([one.wall_s / other.wall_s for one, other in pairs], 5),
        "cpu_ratio_of_pairs": spread([one.cpu_s / other.cpu_s for one, other in pairs], 5),
        "sampler_cpu_ms": spread([seconds * 1000 for seconds in taken_s]),
        "sampler_share_of_the_cpus": spread(shares, 6),
    }


class Work(NamedTuple):
    wall_s: float
    cpu_s: float
    """The CPU time that the work itself needed: others who use the machine change it least."""


def _calibrate(seconds: float) -> int:
    """Rounds for so many seconds, from the best of three: a busy moment would make the work too short."""
    rounds = 1000
    return max(1, round(rounds * seconds / min(_work(rounds).wall_s for _ in range(3))))


def _work(rounds: int) -> Work:
    began = time.perf_counter()
    words = [sys.executable, "-S", "-c", WORK, str(rounds)]
    processes = [subprocess.Popen(words) for _ in range(os.cpu_count() or 1)]
    used = [os.wait4(process.pid, 0)[2] for process in processes]
    for process in processes:
        process.returncode = 0  # waited for above
    return Work(time.perf_counter() - began, sum(usage.ru_utime + usage.ru_stime for usage in used))


def beside_others(plan: Plan, directory: Path, cache: Path) -> dict[str, Any]:
    """One load of one thread, accounted by each in turn."""
    found = {"eco2ai-hpc": ours(plan.load_s, directory), **trackers.compare(plan.load_s, cache)}
    return {
        "load": f"one thread computing for {plan.load_s:g} s; {os.cpu_count()} CPUs; no energy counter: all model",
        "ready_ms": "exec until start() has returned; of eco2ai-hpc: exec until the first reading is in the file",
        "cpu_seconds_per_hour": "what was used beside the load's thread, children included",
        "no_tracker": trackers.bare(min(plan.load_s, 15)),
        **found,
        "ratio_to_eco2ai_hpc": {name: ratios(figures, found["eco2ai-hpc"]) for name, figures in found.items()},
    }


def ratios(figures: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """How often the reference's cost fits into each cost that is known."""
    costs = ("ready_ms", "rss_kib", "cpu_seconds_per_hour")
    return {cost: round(figures[cost] / reference[cost], 2) for cost in costs if figures.get(cost) is not None}


def ours(seconds: float, directory: Path) -> dict[str, Any]:
    """The same load as a job in its cgroup, on a node whose only meter is the model with a stated TDP."""
    sampler = Sampler(directory, "bench", zones=0)
    average = os.getloadavg()[0]
    with slurm_cgroups("bench", 1, ()):
        ready_ms = sampler.start("--tdp-w", str(TDP_W), "--tdp-source", "benchmark")
        try:
            before_ns = sampler.cpu_ns()
            sampler.mark("start", 1, SLURM_JOB_CPUS_PER_NODE="1")
            time.sleep(0.3)
            own = trackers.bare(seconds, enter=lambda pid: enter("slurm_bench/uid_0/job_1/step_extern", pid))
            cpu_ns, memory = sampler.cpu_ns() - before_ns, sampler.memory_kib()
            sampler.mark("end", 1, SLURM_JOB_CPUS_PER_NODE="1")
            time.sleep(0.5)
        finally:
            sampler.stop()
    return {
        "settings": f"--tdp-w {TDP_W} a socket; without a TDP for the CPU's exact name it gives no figure",
        "interval_s": 30,
        "energy_scope": "the job's cgroup, 1 CPU allocated: CPU time x TDP / CPUs, and its share of the rest",
        "ready_ms": round(ready_ms),
        **memory,
        "own_cpu_seconds": round(cpu_ns / 1e9, 4),
        "cpu_seconds_per_hour": round(cpu_ns / 1e9 / seconds * 3600, 2),
        "load_seconds": own["load_seconds"],
        "load_cpu_seconds": own["load_cpu_seconds"],
        **_booked(directory),
        "load_average_before": round(average, 2),
    }


def _booked(directory: Path) -> dict[str, Any]:
    from eco2ai_hpc import config
    from eco2ai_hpc.collector import collect
    from eco2ai_hpc.ledger import open_ledger

    site = 'cluster = "lab"\n[[region]]\nname = "here"\nnodes = "*"\nzone = "FR"\n'
    path = str(directory / "ledger.duckdb")
    collect(path, [str(directory / "spool")], config.parse(site, "site.toml"), jobs="none")
    with open_ledger(path) as ledger:
        (row,) = ledger.rows("select sum(energy_uj) as uj, sum(own_use_uj) as own_uj from run_slot")
        (node,) = ledger.rows("select sum(energy_uj) as uj from interval_energy")
    own = {"job's own use": float(row["own_uj"] or 0) / 3.6e12, "whole node": float(node["uj"] or 0) / 3.6e12}
    return {"energy_kwh": float(row["uj"] or 0) / 3.6e12, "parts_kwh": own}


def spread(values: list[float], digits: int = 1) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    figures = {"median": middle, "q1": low, "q3": high, "min": min(values), "max": max(values)}
    return {"n": len(values)} | {name: round(value, digits) for name, value in figures.items()}


def _age_s() -> float:
    """An hour, where the machine is that old: a job cannot be older than the boot."""
    return max(0.0, min(AN_HOUR_S, float(Path("/proc/uptime").read_text().split()[0]) - 60))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eco2ai-hpc-benchmarks"


if __name__ == "__main__":
    sys.exit(main())
