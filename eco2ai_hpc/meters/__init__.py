"""Meters: one file = one meter, found by scanning this folder.

A meter module offers

    open_meter(roots: Roots, options: Options) -> Meter

and raises MeterAbsent (no such hardware here: normal, quiet) or MeterFailed (should work, does not: reported).
A module with FALLBACK = True is opened only where no other meter counts a package or node.
"""

import os
from importlib import import_module
from types import ModuleType
from typing import NamedTuple, Protocol

from eco2ai_hpc.model import Roots, Zone


class MeterAbsent(Exception):
    """There is nothing for this meter to read on this node."""


class MeterFailed(Exception):
    """There is something to read, but it cannot be read; the message says what would enable it."""


class Options(NamedTuple):
    """What a site may tell the meters."""

    tdp_w: float | None = None
    tdp_source: str = "configured"


class Meter(Protocol):
    """An open meter."""

    zones: tuple[Zone, ...]

    def read(self, counters: dict[str, int], errors: dict[str, str]) -> None:
        """Put each zone's counter in microjoules into `counters`; a failed read goes to `errors` and nowhere else."""

    def close(self) -> None:
        """Give descriptors back."""


class Outcome(NamedTuple):
    """How opening one meter went: exactly one of works, absent, failed."""

    name: str
    status: str
    reason: str
    meter: Meter | None


def names() -> list[str]:
    """The names of all meters, in the order of opening: fallbacks last."""
    found = {entry.split(".")[0] for entry in os.listdir(os.path.dirname(__file__))}
    meters = sorted(name for name in found if not name.startswith("_"))
    return sorted(meters, key=lambda name: bool(getattr(load(name), "FALLBACK", False)))


def load(name: str) -> ModuleType:
    """The module of one meter."""
    return import_module(f"{__name__}.{name}")


def open_all(roots: Roots, options: Options) -> list[Outcome]:
    """Open every meter; one that fails never stops the others."""
    outcomes: list[Outcome] = []
    for name in names():
        module = load(name)
        if getattr(module, "FALLBACK", False) and _covers_the_node(outcomes):
            outcomes.append(Outcome(name, "absent", "not needed: another meter counts here", None))
            continue
        try:
            outcomes.append(Outcome(name, "works", "", module.open_meter(roots, options)))
        except MeterAbsent as error:
            outcomes.append(Outcome(name, "absent", str(error), None))
        except (MeterFailed, OSError) as error:
            outcomes.append(Outcome(name, "failed", str(error), None))
    return outcomes


def _covers_the_node(outcomes: list[Outcome]) -> bool:
    zones = [zone for outcome in outcomes if outcome.meter for zone in outcome.meter.zones]
    return any(zone.used and zone.domain in ("package", "node") for zone in zones)
