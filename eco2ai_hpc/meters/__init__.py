"""Meters: one file = one meter, found by scanning this folder.

A meter module offers

    open_meter(roots: Roots, options: Options) -> Meter

and raises MeterAbsent (no such hardware here: normal, quiet) or MeterFailed (should work, does not: reported).
A module with FALLBACK = True is opened only where no other meter counts a package or node.

A meter decides which of its own zones it would count. Which of them count beside those of other meters is decided
here, in `without_overlap`, and nowhere else.
"""

import os
import re
from collections.abc import Sequence
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
    gpu_order: str | None = None
    """What Slurm's GPU numbers mean: `file` (N of /dev/nvidiaN), `autodetect` (NVML's order); None: both must agree."""


class Meter(Protocol):
    """An open meter.

    zones may change between two reads: a series that broke goes on under a new key. A zone's key never changes its
    meaning, nor whether it counts.
    A meter that integrates power also has poll_s, and poll(), called about that often between two reads.
    """

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
    claims: frozenset[str] = frozenset()
    """Domains that it counted when it was opened: a claim outlives the zones."""


class Offer(NamedTuple):
    """What one meter would count."""

    meter: str
    zones: tuple[Zone, ...]
    claims: frozenset[str]


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
            meter = module.open_meter(roots, options)
            outcomes.append(Outcome(name, "works", "", meter, _counted_domains(meter.zones)))
        except MeterAbsent as error:
            outcomes.append(Outcome(name, "absent", str(error), None))
        except (MeterFailed, OSError) as error:
            outcomes.append(Outcome(name, "failed", str(error), None))
    return outcomes


def counting_zones(outcomes: Sequence[Outcome]) -> tuple[Zone, ...]:
    """Every zone of every open meter, as it is now; `used` are those that count nothing twice."""
    return without_overlap(
        [Offer(outcome.name, outcome.meter.zones, outcome.claims) for outcome in outcomes if outcome.meter]
    )


# Several meters see the same silicon: the best of those that offer a domain has it, with all its zones, alone.
# Best first; a meter that is not named comes after those that are. Reasons: docs/meters.md, "which zones count".
_BEST_FIRST = {
    "node": ("cray_pm", "hwmon"),
    "package": ("cray_pm", "rapl", "hwmon", "model"),
    "dram": ("cray_pm", "rapl", "hwmon"),
    # NVML knows which job has which board; on other accelerators Cray's counter is measured at the board's input.
    "gpu": ("nvml", "cray_pm"),
}
_NEVER = {
    "core": "inside its package",
    "uncore": "inside its package",
    "psys": "contains the packages; never added to anything",
}
# A Grace-Hopper module holds CPU, memory and GPU: it is the node's meter without components, or it does not count.
_MODULE = re.compile(r"^hwmon:.*/Module-Power-Socket-\d+(#|$)", re.IGNORECASE)


def without_overlap(offers: Sequence[Offer]) -> tuple[Zone, ...]:
    """The zones of all offers in their order, `used` only where nothing else that counts holds the same energy.

    A zone that a meter left out itself stays out. A domain belongs to the meter that claimed it at the start for as
    long as the sampler runs, even while it has no zone there: if another stepped in, one key would count in one
    segment and not in the next, and energy lost or counted twice would look like evidence.
    """
    winner = {domain: _winner(domain, offers) for domain in _BEST_FIRST}
    module = next((zone for zone in _wanted(winner["node"], "node") if _MODULE.match(zone.key)), None)
    return tuple(
        _judged(zone, _rival(offer, zone, winner), module) if zone.used else zone
        for offer in offers
        for zone in offer.zones
    )


def _winner(domain: str, offers: Sequence[Offer]) -> Offer | None:
    """Who counts a domain: the best of those that claimed it, else of those that offer it now."""
    claimed = [offer for offer in offers if domain in offer.claims]
    candidates = claimed or [offer for offer in offers if _wanted(offer, domain)]
    order = _BEST_FIRST[domain]
    return min(
        candidates,
        key=lambda offer: order.index(offer.meter) if offer.meter in order else len(order),
        default=None,
    )


def _wanted(offer: Offer | None, domain: str) -> list[Zone]:
    """The zones of a domain that a meter would count; the node has one meter, so the first is enough."""
    zones = [zone for zone in offer.zones if zone.used and zone.domain == domain] if offer else []
    return zones[:1] if domain == "node" else zones


def _rival(offer: Offer, zone: Zone, winner: dict[str, Offer | None]) -> str | None:
    """The key of what counts this zone's energy in its place, or None; a meter's name while it has no zone."""
    best = winner.get(zone.domain)
    wanted = _wanted(best, zone.domain)
    if best is None or (best is offer and zone in wanted):
        return None
    more = f" and {len(wanted) - 1} more" if len(wanted) > 1 else ""
    return f"{wanted[0].key}{more}" if wanted else best.meter


def _judged(zone: Zone, rival: str | None, module: Zone | None) -> Zone:
    if zone.domain in _NEVER:
        return zone._replace(used=False, why=_NEVER[zone.domain])
    if rival is not None:
        return zone._replace(used=False, why=f"counted by {rival}")
    if module is not None and zone != module:
        return zone._replace(used=False, why=f"inside {module.key}, which counts alone")
    return zone


def _counted_domains(zones: tuple[Zone, ...]) -> frozenset[str]:
    return frozenset(zone.domain for zone in zones if zone.used)


def _covers_the_node(outcomes: list[Outcome]) -> bool:
    zones = [zone for outcome in outcomes if outcome.meter for zone in outcome.meter.zones]
    return any(zone.used and zone.domain in ("package", "node") for zone in zones)
