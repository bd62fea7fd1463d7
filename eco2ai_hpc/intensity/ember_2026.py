"""Ember (2026) yearly country intensities: the default location-based factors, shipped with the product.

Average, production mix, aims at full lifecycle, CO2e over 100 years: a management figure, not a direct Scope 2 factor.
Each country has its latest year only; the year goes with every figure.
"""

import csv
from hashlib import sha256
from pathlib import Path

from eco2ai_hpc import resources
from eco2ai_hpc.errors import BadInputError
from eco2ai_hpc.model import Factor, FactorSet

KIND = "location-lifecycle"
_COLUMNS = ["region", "year", "intensity_g_per_kwh", "source", "licence", "retrieved"]
_HIGHEST_G_PER_KWH = 1500.0


def read(path: Path | None = None) -> tuple[FactorSet, list[Factor]]:
    """The set and its factors; raises BadInputError with file and line for a value that cannot be one."""
    file = path or Path(resources.path("data", "ember-2026", "country_intensity.csv"))
    content = file.read_bytes()
    rows = list(csv.reader(content.decode("utf-8").splitlines()))
    if not rows or rows[0] != _COLUMNS:
        raise BadInputError(f"{file}:1: expected the columns {','.join(_COLUMNS)}, found {rows[:1]}")
    factors = [_factor(f"{file}:{line}", row) for line, row in enumerate(rows[1:], start=2)]
    about = FactorSet(
        factor_set="ember-2026",
        title="Ember yearly country intensities, 2026 release",
        source="Ember (2026), with major processing by Our World in Data: Carbon intensity of electricity",
        licence="CC BY 4.0",
        attribution="Ember (2026), with major processing by Our World in Data, CC BY 4.0",
        digest="sha256:" + sha256(content).hexdigest(),
    )
    return about, factors


def _factor(where: str, row: list[str]) -> Factor:
    try:
        zone, year, value = row[0], int(row[1]), row[2]
        plausible = 0 <= float(value) <= _HIGHEST_G_PER_KWH
    except (ValueError, IndexError):
        raise BadInputError(f"{where}: expected region,year,g/kWh, found {','.join(row)}") from None
    if not plausible:
        raise BadInputError(f"{where}: {value} g/kWh is not between 0 and {_HIGHEST_G_PER_KWH:g}")
    return Factor(zone, KIND, year, value)
