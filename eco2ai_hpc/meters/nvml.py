"""NVIDIA GPUs through NVML: one zone a board, `nvml:GPU-<uuid>`, the driver's own energy counter.

The counter (nvmlDeviceGetTotalEnergyConsumption, millijoules, Volta and newer) has 64 bits and counts since the driver
was loaded: where it falls, it was reset, and the key stays. A board without it has its power integrated by trapezoid;
that counter lives in this process, so its key ends in `#<8 hex>`, a new one wherever samples were missing for longer
than a straight line may bridge. A board that was lost and came back is a new series too (`#2`): what it counted
meanwhile is not known.

**A driver that hangs must not stop the sampler.** A call into NVML can block for good, and nothing can interrupt it.
So one daemon thread makes all calls, one after the other, and the sampler waits for it: OPEN_S at the start, READ_S at
a tick. What is late is a failed read ("timeout"), and nothing is asked again until the thread is back: a dead driver
costs one second once, not at every tick. A driver that is slow to wake is not given up: its boards appear when they
can be read. A process of its own could be killed as well, but is a second interpreter (about 15 MB) on every GPU node;
the price of the thread is that a sampler whose driver hangs inside the kernel cannot exit until the driver lets go.
Loading the library cannot be bounded (Python 3.11 holds the interpreter's lock in dlopen); that touches no device.

**MIG, MPS, shards.** Energy exists for boards only. `devices_of` names a MIG instance `MIG-<uuid>@GPU-<its board's>`;
a job with MPS or a shard is given the board its share lies on. How a board is split is not decided here. NVML's MIG
calls can take 100 ms each: they are made at job edges, once for each instance, never at a tick.

Sources: NVML API reference; nvidia-ml-py 13.615 (module `pynvml`).
"""

import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from eco2ai_hpc.meters import MeterAbsent, MeterFailed, Options
from eco2ai_hpc.model import Roots, Zone
from eco2ai_hpc.units import NS_PER_S

OPEN_S = 5.0
READ_S = 1.0
POLL_S = 1.0
# Power in between is unknown; a line over more than this would be a guess.
_LONGEST_STEP_NS = 10 * NS_PER_S
_UJ_PER_MJ = 1_000
_UW_PER_MW = 1_000
_LARGEST_UJ = 2**63 - 1

_WAITING = Zone("nvml:opening", "gpu", None, None, False, "NVML has not answered yet; nvidia-smi would hang too")
_LOST = ("GpuIsLost", "ResetRequired")
_OLD_MIG_NAME = re.compile(r"MIG-(GPU-[^/]+)/\d+/\d+")
_REMEDIES = {
    "DriverNotLoaded": "the NVIDIA driver is not loaded; modprobe nvidia",
    "NoPermission": "no permission; run as root, or chmod 0666 /dev/nvidiactl /dev/nvidia[0-9]*",
    "LibRmVersionMismatch": "library and driver differ in version; reboot, or modprobe -r nvidia && modprobe nvidia",
    "GpuIsLost": "the GPU is lost; reboot the node (dmesg | grep NVRM says why)",
    "NotSupported": "neither energy nor power is offered; a vGPU is metered on its host",
    "ResetRequired": "the GPU needs a reset; nvidia-smi --gpu-reset",
}

_Result = TypeVar("_Result")


class _Late(Exception):
    """NVML has not come back in time."""


class _Call:
    """One piece of work for the thread, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:  # noqa: BLE001 (raised again where it is waited for)
            self.error = error
        self.done.set()


class _Thread:
    """The thread that makes all NVML calls. It is a daemon: nobody waits for it at exit."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._last: _Call | None = None
        self._late = False
        threading.Thread(target=self._run, name="nvml", daemon=True).start()

    def _run(self) -> None:
        while call := self._calls.get():
            call.run()

    def is_busy(self) -> bool:
        return self._last is not None and not self._last.done.is_set()

    def post(self, work: Callable[[], None]) -> None:
        """Have it done, without waiting; nothing happens while the thread is busy."""
        if not self.is_busy():
            self._put(work)

    def ask(self, work: Callable[[], _Result], seconds: float) -> _Result:
        """Have it done and return what it returns, or raise what it raises; raises _Late after so many seconds.

        After that, _Late comes at once until the thread is back. A late result is dropped: its time is not known.
        """
        if self._late and self.is_busy():
            raise _Late
        call = self._put(work)
        self._late = not call.done.wait(seconds)
        if self._late:
            raise _Late
        if call.error is not None:
            raise call.error
        result: _Result = call.result
        return result

    def _put(self, work: Callable[[], Any]) -> _Call:
        self._last = _Call(work)
        self._calls.put(self._last)
        return self._last

    def end(self) -> None:
        self._calls.put(None)


class _Device(NamedTuple):
    """Who a board is."""

    uuid: str
    name: str
    pci: str
    number: int
    """NVML's number, in the order of PCI addresses."""
    minor: int | None
    """N of /dev/nvidiaN."""
    is_mig: bool


class _Integral:
    """Energy from power, by trapezoid, in exact integers."""

    def __init__(self) -> None:
        self.tag = os.urandom(4).hex()
        self._last: tuple[int, int] | None = None
        self._twice_pj = 0

    def add(self, at_ns: int, power_mw: int) -> bool:
        """Go on to this sample; False where the one before is too old for a line between them."""
        if self._last is not None:
            step_ns = at_ns - self._last[0]
            if step_ns > _LONGEST_STEP_NS:
                return False
            self._twice_pj += (self._last[1] + power_mw) * step_ns  # mW x ns = pJ
        self._last = (at_ns, power_mw)
        return True

    @property
    def energy_uj(self) -> int:
        return self._twice_pj // 2_000_000


class _Board:
    """One board and its series. It belongs to the NVML thread; only `device` is read by others."""

    def __init__(self, nvml: ModuleType, number: int) -> None:
        self._nvml = nvml
        self._number = number
        self.device: _Device | None = None
        self._handle: Any = None
        self._is_lost = False
        self._series = 1
        self._max_uw: int | None = None
        self._without = ""  # why there is no counter
        self._trouble = ""  # why it was never opened
        self.integral: _Integral | None = None
        self._is_blind = False  # neither energy nor power

    def attach(self) -> None:
        """Find the board, in its slot once that is known, and what it can count. Raises NVMLError."""
        nvml = self._nvml
        if self.device is None:
            handle = nvml.nvmlDeviceGetHandleByIndex(self._number)
        else:
            # Not by its UUID: that search ends at the first board that is lost.
            handle = nvml.nvmlDeviceGetHandleByPciBusId(self.device.pci)
        device = _Device(
            nvml.nvmlDeviceGetUUID(handle),
            nvml.nvmlDeviceGetName(handle),
            nvml.nvmlDeviceGetPciInfo(handle).busId,
            self._number,
            self._optional(nvml.nvmlDeviceGetMinorNumber, handle),
            self._reads_mig(handle),
        )
        limits_mw = [self._optional(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)]
        # An administrator may raise the limit later, up to the highest the board allows.
        limits_mw += self._optional(nvml.nvmlDeviceGetPowerManagementLimitConstraints, handle) or []
        without_energy = self._refusal(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        without_power = self._refusal(nvml.nvmlDeviceGetPowerUsage, handle) if without_energy else ""
        # From here on nothing can fail any more: a board that answered in part is as it was before.
        self._max_uw = max((limit for limit in limits_mw if limit), default=0) * _UW_PER_MW or None
        self._without, self._is_blind = without_energy, bool(without_power)
        if self._is_lost:
            self._series += 1
        if not without_energy or without_power:
            self.integral = None
        elif self.integral is None or self._is_lost:
            self.integral = _Integral()
        self.device, self._handle, self._is_lost = device, handle, False

    def _refusal(self, query: Callable[[Any], int], handle: Any) -> str:
        """Why the board or its driver will never answer this; empty where it does."""
        try:
            query(handle)
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound) as error:
            return _name(error)
        return ""

    def _optional(self, query: Callable[[Any], Any], handle: Any) -> Any:
        """What an older board or driver need not answer."""
        try:
            return query(handle)
        except self._nvml.NVMLError:
            return None

    def _reads_mig(self, handle: Any) -> bool:
        mode = self._optional(self._nvml.nvmlDeviceGetMigMode, handle)
        return bool(mode and mode[0])

    def refresh_mig(self) -> None:
        """The mode may be switched between two jobs."""
        if self.device is not None and self._handle is not None:
            self.device = self.device._replace(is_mig=self._reads_mig(self._handle))

    def read_uj(self) -> int:
        """The counter now; a board that was lost is looked for again. Raises NVMLError."""
        if self._handle is None:
            self.attach()
        if self._is_blind:
            raise self._nvml.NVMLError_NotSupported
        if self.integral is not None:
            self.sample()
            return self.integral.energy_uj
        counter_mj: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        return counter_mj * _UJ_PER_MJ

    def sample(self) -> None:
        """Take in the power of a board without a counter. Raises NVMLError."""
        if self.integral is None or self._handle is None:
            return
        power_mw = self._nvml.nvmlDeviceGetPowerUsage(self._handle)
        at_ns = _boot_ns()
        if not self.integral.add(at_ns, power_mw):
            self.integral = _Integral()
            self.integral.add(at_ns, power_mw)

    def fail(self, error: str) -> None:
        """Take note of a failed reading."""
        if self.device is None:
            self._trouble = error
        elif error in _LOST:
            self._is_lost, self._handle = True, None

    def let_go(self) -> None:
        """Forget the handle: the library starts anew."""
        self._handle = None

    @property
    def key(self) -> str:
        if self.device is None:
            return f"nvml:index-{self._number}"
        key = f"nvml:{self.device.uuid}"
        if self.integral is not None:
            return f"{key}#{self.integral.tag}"
        return key if self._series == 1 else f"{key}#{self._series}"

    @property
    def zone(self) -> Zone:
        if self.device is None:
            why = f"not counted: {_REMEDIES.get(self._trouble) or self._trouble + '; dmesg | grep NVRM'}"
            return Zone(self.key, "gpu", None, None, False, why)
        method, how = "counter", "the board's counter"
        if self.integral is not None:
            method, how = "integrated", f"power integrated every {POLL_S:g} s (energy: {self._without})"
        elif self._is_blind:
            how = f"not counted: neither energy nor power ({self._without})"
        elif self._series > 1:
            how += ", new since the board was lost"
        who = self.device
        file = "" if who.minor is None else f", /dev/nvidia{who.minor}"
        shared = "; MIG: its instances share it" if who.is_mig else ""
        why = f"{how}; {who.name}, {who.pci}{file}{shared}"
        return Zone(self.key, "gpu", None, self._max_uw, not self._is_blind, why, method)


class _Found(NamedTuple):
    """One reading of all boards."""

    zones: tuple[Zone, ...]
    counters: dict[str, int]
    errors: dict[str, str]


class _Boards:
    """All boards; its methods run on the NVML thread."""

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml
        self._is_open = False
        self.boards: list[_Board] = []
        self._boards_of_instances: dict[str, str] = {}

    def read(self) -> _Found:
        """Read every board; one that fails is an error of its own zone. Raises NVMLError where the library fails."""
        if not self._is_open:
            self._open()
        found = self._read_each()
        if "Uninitialized" in found.errors.values():  # somebody shut the library down: once more, from the start
            self._nvml.nvmlInitWithFlags(0)
            for board in self.boards:
                board.let_go()
            found = self._read_each()
        return found

    def _open(self) -> None:
        self._nvml.nvmlInitWithFlags(0)
        self.boards = [_Board(self._nvml, number) for number in range(self._nvml.nvmlDeviceGetCount())]
        self._is_open = True

    def _read_each(self) -> _Found:
        counters: dict[str, int] = {}
        errors: dict[str, str] = {}
        for board in self.boards:
            try:
                counter_uj = board.read_uj()
            except self._nvml.NVMLError as error:
                board.fail(_name(error))
                errors[board.key] = _name(error)
                continue
            if counter_uj <= _LARGEST_UJ:
                counters[board.key] = counter_uj
            else:
                errors[board.key] = "out of range"
        return _Found(tuple(board.zone for board in self.boards), counters, errors)

    def sample(self) -> None:
        """A poll: what fails here is reported by the next reading."""
        for board in self.boards:
            with contextlib.suppress(self._nvml.NVMLError):
                board.sample()

    def refresh_mig(self) -> None:
        for board in self.boards:
            board.refresh_mig()

    def board_of(self, instance: str) -> str:
        """The UUID of the board that a MIG instance lies on. Raises NVMLError."""
        if instance not in self._boards_of_instances:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(instance)
            board = self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            self._boards_of_instances[instance] = self._nvml.nvmlDeviceGetUUID(board)
        return self._boards_of_instances[instance]

    def close(self) -> None:
        if self._is_open:
            self._nvml.nvmlShutdown()


class Nvml:
    """All NVIDIA boards of the node. `zones` and `poll_s` may change with each `read`."""

    def __init__(self, nvml: ModuleType, order: str | None) -> None:
        self.zones: tuple[Zone, ...] = (_WAITING,)
        self.poll_s: float | None = None
        self._nvml = nvml
        self._order = order
        self._boards = _Boards(nvml)
        self._thread = _Thread()

    def read(self, counters: dict[str, int], errors: dict[str, str]) -> None:
        """Read every board within READ_S, else each zone's error is `timeout`."""
        try:
            found = self.look(READ_S)
        except _Late:
            errors.update((zone.key, "timeout") for zone in self.zones)
        except self._nvml.NVMLError as error:
            errors.update((zone.key, _name(error)) for zone in self.zones)
        else:
            counters.update(found.counters)
            errors.update(found.errors)

    def look(self, seconds: float) -> _Found:
        """One reading of all boards. Raises _Late, and NVMLError where the library as a whole fails."""
        found = self._thread.ask(self._boards.read, seconds)
        if found.zones != self.zones:
            self.zones = found.zones
            self.poll_s = POLL_S if any(zone.method == "integrated" for zone in self.zones) else None
        return found

    def poll(self) -> None:
        """Sample the power of boards without a counter; does not wait."""
        self._thread.post(self._boards.sample)

    def devices_of(self, env: Mapping[str, str]) -> list[str]:
        """UUIDs of the boards and MIG instances that Slurm's environment names; none at all where one is unknown.

        Ordinals are Slurm's own: positions in gres.conf. With `File=/dev/nvidia[0-3]` in that order they are the
        devices' minor numbers, with AutoDetect=nvml NVML's order (Slurm sorts by PCI address). Where these two differ,
        `Options.gpu_order` must say which holds; without it such an ordinal is unknown, not guessed.
        """
        visible = env.get("CUDA_VISIBLE_DEVICES", "")
        text = visible if visible.startswith(("GPU-", "MIG-")) else env.get("SLURM_JOB_GPUS") or visible
        words = [word.strip() for word in text.split(",")] if text else []
        found: list[str] = []
        for word in words:
            device = self._device(word)
            if device is None:
                return []
            found.append(device)
        return list(dict.fromkeys(found))

    def _device(self, word: str) -> str | None:
        if word.isascii() and word.isdigit():
            return self._by_ordinal(int(word))
        if word.startswith("GPU-"):  # CUDA takes any beginning that is unique
            known = [device.uuid for device in self._devices() if device.uuid.startswith(word)]
            return known[0] if len(known) == 1 else None
        if old := _OLD_MIG_NAME.fullmatch(word):
            return f"{word}@{old[1]}"
        if word.startswith("MIG-"):
            board = self._at_edge(lambda: self._boards.board_of(word))
            return board and f"{word}@{board}"
        return None

    def _by_ordinal(self, ordinal: int) -> str | None:
        if any(device.is_mig for device in self._devices()):
            self._at_edge(self._boards.refresh_mig)
            if any(device.is_mig for device in self._devices()):
                return None  # Slurm then counts instances
        by_file = [device.uuid for device in self._devices() if device.minor == ordinal]
        by_number = [device.uuid for device in self._devices() if device.number == ordinal]
        if self._order is None:
            return by_file[0] if by_file and by_file == by_number else None
        return next(iter(by_file if self._order == "file" else by_number), None)

    def _devices(self) -> list[_Device]:
        return [board.device for board in self._boards.boards if board.device is not None]

    def _at_edge(self, work: Callable[[], _Result]) -> _Result | None:
        try:
            return self._thread.ask(work, READ_S)
        except (_Late, self._nvml.NVMLError):
            return None

    def close(self) -> None:
        """Shut NVML down; a library that hangs is left behind."""
        with contextlib.suppress(_Late, self._nvml.NVMLError):
            self._thread.ask(self._boards.close, READ_S)
        self._thread.end()


def open_meter(roots: Roots, options: Options) -> Nvml:
    """Load NVML and read each board once.

    Raises MeterAbsent without the binding, the library, the driver or a GPU; MeterFailed where the kernel has the
    driver all the same, or no board will ever answer. A library that is later than OPEN_S is waited for by `read`.
    """
    has_driver = os.path.exists(os.path.join(roots.procfs, "driver", "nvidia"))
    missing = MeterFailed if has_driver else MeterAbsent
    nvml = _binding(missing)
    meter = Nvml(nvml, options.gpu_order)
    try:
        found = meter.look(OPEN_S)
    except _Late:
        return meter
    except nvml.NVMLError as error:
        meter.close()
        kind = missing if _name(error) == "DriverNotLoaded" else MeterFailed
        raise kind(_reason(error)) from None
    if not found.zones:
        meter.close()
        raise MeterAbsent("the NVIDIA driver has no GPU; lspci | grep -i nvidia")
    if set(found.errors.values()) & {"NoPermission", "NotSupported"} and not found.counters:  # will not pass
        meter.close()
        reasons = sorted({_REMEDIES.get(name, name) for name in found.errors.values()})
        raise MeterFailed(f"none of {len(found.zones)} GPU(s) can be read: {', '.join(reasons)}")
    return meter


def _binding(missing: type[MeterAbsent] | type[MeterFailed]) -> ModuleType:
    """Import NVIDIA's own pynvml and no other, where there is a library for it: it is 3 MB of the resident sampler.

    The deprecated distribution named pynvml answers differently. The owner's metadata lie beside the module, where
    importlib.metadata finds them too; importing that would cost 4 MB more.
    """
    spec = find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise missing("nvidia-ml-py is not installed; pip install 'eco2ai-hpc[gpu]'")
    if not any(name.startswith("nvidia_ml_py-") for name in os.listdir(os.path.dirname(spec.origin))):
        raise missing(f"{spec.origin} is not nvidia-ml-py's; pip uninstall pynvml && pip install 'eco2ai-hpc[gpu]'")
    from ctypes import CDLL  # only here: most nodes never come this far

    try:
        CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise missing(f"{error}; install the libraries of the NVIDIA driver and run ldconfig") from None
    return import_module("pynvml")


def _name(error: Exception) -> str:
    """`GpuIsLost`; the number where the binding has no name for it."""
    name = type(error).__name__.removeprefix("NVMLError_")
    return f"NVML {getattr(error, 'value', '')}" if name == "NVMLError" else name


def _reason(error: Exception) -> str:
    return _REMEDIES.get(_name(error)) or f"NVML does not start ({_name(error)}: {error}); dmesg | grep NVRM"


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
