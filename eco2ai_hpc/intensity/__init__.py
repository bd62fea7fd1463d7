"""Carbon intensities: one file = one source, found by scanning this folder.

A source module offers `read() -> tuple[FactorSet, list[Factor]]`.
"""

import difflib
from collections.abc import Collection
from importlib import import_module
from pathlib import Path

from eco2ai_hpc.errors import BadInputError
from eco2ai_hpc.model import Factor, FactorSet

DEFAULT = "ember_2026"


def names() -> list[str]:
    """The names of all sources."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def read(name: str) -> tuple[FactorSet, list[Factor]]:
    """The factors of one source."""
    result: tuple[FactorSet, list[Factor]] = import_module(f"{__name__}.{name}").read()
    return result


def insist_on_zone(zone: str, known: Collection[str], factor_set: str, where: str) -> None:
    """Raise BadInputError with near matches where the set has no factor for the zone: never another place's."""
    if zone not in known:
        near = difflib.get_close_matches(zone.upper(), sorted(known), n=3, cutoff=0.4)
        hint = f"near: {', '.join(near)}" if near else f"the set has {len(known)} zones, ISO 3166-1 alpha-2 codes"
        raise BadInputError(f"{where}: the factor set {factor_set} has no zone {zone!r}", hint=hint)
