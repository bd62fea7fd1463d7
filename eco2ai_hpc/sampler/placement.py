"""Where and how urgently the sampler runs, so that it is never in a job's way: cores, niceness, out-of-memory order.

Nothing here gives up privileges: as long as the sampler is root (energy_uj is root's, and is opened again after a
failure) a smaller set of capabilities leaves it the files that root owns, which is all of the node. What bounds it is
the unit: CapabilityBoundingSet together with ProtectSystem=strict. See prolog_epilog/eco2ai-sampler.service.
"""

import contextlib
import os
import re

from eco2ai_hpc.errors import ConfigError

OOM_SCORE_ADJ = -500
_LIST = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*")
_LOWEST_NICE, _HIGHEST_NICE = -20, 19


def cores(asked: str, core_spec: str | None) -> frozenset[int] | None:
    """The logical CPUs of `--pin-cores auto|off|LIST`; None: wherever the kernel likes.

    auto: those of ECO2AI_HPC_CORE_SPEC, where a site repeats its node's CoreSpec CPUs, which no job is given.
    Raises ConfigError for what is no list such as `0-1,64`.
    """
    text = core_spec if asked == "auto" else None if asked == "off" else asked
    if not text:
        return None
    if not _LIST.fullmatch(text):
        raise ConfigError(f"--pin-cores {text!r} is no list of CPUs", hint="auto, off, or a list such as 0-1,64")
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def niceness(asked: int | None) -> int | None:
    """Raises ConfigError for what is none."""
    if asked is not None and not _LOWEST_NICE <= asked <= _HIGHEST_NICE:
        raise ConfigError(f"--nice {asked} is not within {_LOWEST_NICE} to {_HIGHEST_NICE}")
    return asked


def settle(pinned: frozenset[int] | None, nice: int | None, *, spare_in_oom: bool) -> str:
    """Take the place; returns what the kernel refused, for a person: the sampler does its work elsewhere too."""
    refused = []
    if pinned:
        try:
            os.sched_setaffinity(0, pinned)
        except OSError as error:
            refused.append(f"cores {sorted(pinned)}: {error.strerror}")
    if nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError as error:
            refused.append(f"nice {nice}: {error.strerror}")
    if spare_in_oom:
        # A prolog's child has slurmd's -1000, and would outlive what matters more.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE_ADJ))
    return "; ".join(refused)
