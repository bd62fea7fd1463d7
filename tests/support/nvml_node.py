"""A node whose NVIDIA boards are a text file, and the process that meters them: each loads a library only once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).with_name("fake_nvml.c")


def compile_library(directory: Path, *flags: str) -> Path:
    """The folder that holds a fake libnvidia-ml.so.1."""
    name = "libnvidia-ml.so.1"
    command = ["gcc", *flags, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", f"-Wl,-soname,{name}"]
    subprocess.run([*command, "-o", directory / name, SOURCE], check=True)
    return directory


def uuid(board: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{board:012}"


def key(board: int) -> str:
    return f"nvml:{uuid(board)}"


class Reading(NamedTuple):
    counters: dict[str, int]
    errors: dict[str, str]
    zones: dict[str, dict[str, Any]]
    seconds: float


class NvmlNode:
    """The boards (`say` rewrites them) and the process that reads them."""

    def __init__(self, directory: Path, library: Path | None, boards: str | None, **environment: str) -> None:
        self._file = directory / "gpus.txt"
        environment = os.environ | environment
        if library:
            environment["LD_LIBRARY_PATH"] = str(library)
        if boards is not None:
            self.say(boards)
            environment["FAKE_NVML_FILE"] = str(self._file)
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def say(self, boards: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(boards + "\n")
        new.rename(self._file)

    def ask(self, request: str, **values: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([request, values]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "trace" in answer:
            raise AssertionError(answer["trace"])
        return answer["value"]

    def open(self, **values: Any) -> dict[str, Any]:
        """How opening went: status, reason, seconds."""
        return self.ask("open", **values)

    def read(self) -> Reading:
        return Reading(**self.ask("read"))

    def read_when_back(self) -> Reading:
        """The first reading that is not late."""
        give_up = time.monotonic() + 10
        while "timeout" in (found := self.read()).errors.values():
            assert time.monotonic() < give_up, "the library never came back"
            time.sleep(0.05)
        return found

    def devices_of(self, **env: str) -> list[str]:
        return self.ask("devices_of", env=env)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


class _Serving:
    """The other end: one meter, driven line by line."""

    def __init__(self) -> None:
        from eco2ai_hpc.meters import nvml

        self.module = nvml
        self.meter: Any = None
        self.calls: list[str] = []

    def open(self, order: str | None = None, open_s: float = 5.0, read_s: float = 1.0, procfs: str = "/nowhere") -> Any:
        from eco2ai_hpc.meters import MeterAbsent, MeterFailed, Options
        from eco2ai_hpc.model import Roots

        self.module.OPEN_S, self.module.READ_S = open_s, read_s
        began = time.monotonic()
        status, reason = "works", ""
        try:
            self.meter = self.module.open_meter(Roots(procfs=procfs), Options(gpu_order=order))
        except (MeterAbsent, MeterFailed) as error:
            status, reason = type(error).__name__.removeprefix("Meter").lower(), str(error)
        return {"status": status, "reason": reason, "seconds": time.monotonic() - began}

    def read(self) -> Any:
        counters: dict[str, int] = {}
        errors: dict[str, str] = {}
        began = time.monotonic()
        self.meter.read(counters, errors)
        zones = {zone.key: zone._asdict() for zone in self.meter.zones}
        return {"counters": counters, "errors": errors, "zones": zones, "seconds": time.monotonic() - began}

    def poll(self, wait: bool = True) -> float:
        began = time.monotonic()
        self.meter.poll()
        seconds = time.monotonic() - began
        if wait:
            self.meter._thread.ask(lambda: None, 5)
        return seconds

    def poll_s(self) -> Any:
        return self.meter.poll_s

    def devices_of(self, env: dict[str, str]) -> Any:
        return self.meter.devices_of(env)

    def clock(self, seconds: float) -> None:
        self.module._boot_ns = lambda: round(seconds * 1e9)

    def count_calls(self) -> None:
        """From now on, note each call into the library."""
        import pynvml

        found = pynvml._nvmlGetFunctionPointer

        def noted(name: str) -> Any:
            self.calls.append(name)
            return found(name)

        pynvml._nvmlGetFunctionPointer = noted

    def called(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls

    def close(self) -> float:
        began = time.monotonic()
        self.meter.close()
        return time.monotonic() - began

    def imported(self, name: str) -> bool:
        return name in sys.modules


def _serve() -> None:
    import traceback

    serving = _Serving()
    for line in sys.stdin:
        request, values = json.loads(line)
        try:
            answer = {"value": getattr(serving, request)(**values)}
        except Exception:  # noqa: BLE001 (the test shows it)
            answer = {"trace": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
