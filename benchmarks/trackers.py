"""Other energy trackers beside the sampler, each on the same load, one after the other; run by node.py.

CodeCarbon, Carbontracker and eco2AI are libraries: each wraps the load in its own process, as its manual has it, in a
virtual environment below a cache folder. What such a process uses beside the thread that computes is the tracker's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIME_BOX_S = 60
INSTALL_BOX_S = 240

# Prints lines of "@" and JSON; everything else on stdout is the tracker's own.
_COMMON = """
import json, os, resource, sys, time
def say(**values): print("\\n@" + json.dumps(values), flush=True)
def beside():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() - time.thread_time() + children.ru_utime + children.ru_stime
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))
def load():
    before, began = beside(), time.monotonic()
    cpu, end = time.thread_time(), began + float(sys.argv[1])
    while time.monotonic() < end: sum(range(20000))
    seconds = time.monotonic() - began
    say(load_seconds=seconds, load_cpu_seconds=time.thread_time() - cpu, own_cpu_seconds=beside() - before,
        rss_kib=status("VmRSS"), threads=status("Threads"))
"""
_BARE = "say(ready=time.monotonic())\nload()\nos._exit(0)"
_CODECARBON = """
from codecarbon import OfflineEmissionsTracker
tracker = OfflineEmissionsTracker(country_iso_code="FRA", save_to_file=False, log_level="error")
tracker.start()
say(ready=time.monotonic())
load()
tracker.stop()
data = tracker.final_emissions_data
say(energy_kwh=data.energy_consumed, parts_kwh={"cpu": data.cpu_energy, "ram": data.ram_energy, "gpu": data.gpu_energy},
    cpu_model=data.cpu_model)
os._exit(0)
"""
_CARBONTRACKER = """
from carbontracker.tracker import CarbonTracker
tracker = CarbonTracker(epochs=2, epochs_before_pred=0, verbose=0)
tracker.epoch_start()
say(ready=time.monotonic())
load()
tracker.epoch_end()
say(energy_kwh=float(tracker.tracker.total_energy_per_epoch().sum()),
    parts_kwh={part.name: float(sum(part.energy_usage(tracker.tracker.epoch_times)))
               for part in tracker.tracker.components})
os._exit(0)
"""
_ECO2AI = """
import eco2ai
tracker = eco2ai.Tracker(alpha_2_code="FR", file_name="emission.csv", ignore_warnings=True)
tracker.start()
say(ready=time.monotonic())
load()
tracker.stop()
import csv
row = list(csv.DictReader(open("emission.csv")))[-1]
say(energy_kwh=float(row["power_consumption(kWh)"]), cpu_model=row["CPU_name"])
os._exit(0)
"""

TRACKERS: dict[str, dict[str, Any]] = {
    "CodeCarbon": {
        "packages": ("codecarbon==3.3.2",),
        "program": _CODECARBON,
        "settings": "OfflineEmissionsTracker(country_iso_code='FRA', save_to_file=False)",
        "interval_s": 15,
        "energy_scope": "its model of the whole machine: CPU load and memory",
    },
    "Carbontracker": {
        "packages": ("carbontracker==2.4.7",),
        "program": _CARBONTRACKER,
        "settings": "CarbonTracker(epochs=2, epochs_before_pred=0), no API key",
        "interval_s": 1,
        "energy_scope": "its constant for this CPU, whatever the load; its own PUE is in the total, not in the parts",
    },
    "eco2AI": {
        "packages": ("eco2ai==0.3.12", "pandas<3"),  # with pandas 3 its stop() raises TypeError
        "program": _ECO2AI,
        "settings": "Tracker(alpha_2_code='FR')",
        "interval_s": 10,
        "energy_scope": "its model of this one process: CPU time and memory",
    },
}


def bare(seconds: float, enter: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The load in an interpreter without any tracker: the reference for memory, and the noise of CPU time.

    `enter` is called in the new process before it becomes that interpreter.
    """
    return _run([sys.executable, "-c", _COMMON + _BARE], seconds, enter)


def compare(seconds: float, cache: Path) -> dict[str, Any]:
    """What each tracker says and costs; one that fails says why instead."""
    found = {}
    for name, tracker in TRACKERS.items():
        described = {key: tracker[key] for key in ("packages", "settings", "interval_s", "energy_scope")}
        python = install(tracker["packages"], cache)
        if isinstance(python, str):
            found[name] = described | {"failed": python}
        else:
            found[name] = described | _run([str(python), "-c", _COMMON + tracker["program"]], seconds)
    return found


def install(packages: tuple[str, ...], cache: Path) -> Path | str:
    """The interpreter of a tracker's own environment, or why there is none."""
    directory = cache / packages[0].replace("==", "-")
    python, done = directory / "bin/python", directory / ".installed"
    if done.exists():
        return python
    try:
        for words in ([sys.executable, "-m", "venv", directory], [python, "-m", "pip", "install", "-q", *packages]):
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=INSTALL_BOX_S)
    except subprocess.TimeoutExpired:
        return f"not installed: pip took longer than {INSTALL_BOX_S} s"
    except subprocess.CalledProcessError as error:
        return f"not installed: {_last_line(error.stderr)}"
    done.touch()
    return python


def _run(words: list[str], seconds: float, enter: Callable[[int], None] | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        env = {"PATH": os.environ["PATH"], "HOME": directory}
        average, began = os.getloadavg()[0], time.monotonic()
        try:
            done = subprocess.run(
                [*words, str(seconds)],
                cwd=directory,
                env=env,
                capture_output=True,
                text=True,
                timeout=seconds + TIME_BOX_S,
                check=False,
                preexec_fn=enter and (lambda: enter(os.getpid())),
            )
            out, failed = done.stdout, done.returncode and f"exit {done.returncode}: {_last_line(done.stderr)}"
        except subprocess.TimeoutExpired as error:
            out, failed = (error.stdout or b"").decode(), f"killed {TIME_BOX_S} s after the load should have ended"
    said: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith("@"):
            said |= json.loads(line[1:])
    return figures(said, began) | {"load_average_before": round(average, 2)} | ({"failed": failed} if failed else {})


def figures(said: dict[str, Any], began: float) -> dict[str, Any]:
    """The same figures for all; None where a tracker did not get so far."""
    own, lasted, ready = said.get("own_cpu_seconds"), said.get("load_seconds"), said.get("ready")
    found = {
        "ready_ms": None if ready is None else round((ready - began) * 1000),
        "rss_kib": said.get("rss_kib"),
        "own_cpu_seconds": None if own is None else round(own, 4),
        "cpu_seconds_per_hour": None if own is None else round(own / lasted * 3600, 2),
        "load_seconds": None if lasted is None else round(lasted, 2),
        "load_cpu_seconds": None if lasted is None else round(said["load_cpu_seconds"], 2),
        "energy_kwh": said.get("energy_kwh"),
    }
    return found | {key: said[key] for key in ("parts_kwh", "cpu_model", "threads") if key in said}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1][:200] if lines else "it said nothing"
