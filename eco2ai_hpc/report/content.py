"""The content of a report: the one model behind every format (schema eco2ai-hpc/report/1).

Energies are integers of microjoules and come from sql/6_accounts; kWh and kg appear here for the first time. What is
unknown is None, never 0.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from eco2ai_hpc import __version__, resources
from eco2ai_hpc.errors import NothingFoundError
from eco2ai_hpc.ledger import Ledger, Row
from eco2ai_hpc.units import UJ_PER_KWH

SCHEMA = "eco2ai-hpc/report/1"
GRADES = ("measured", "partly_measured", "modelled", "estimated")
"""Best to worst; a sum has the worst of its parts."""
_COMPONENTS = ("cpu_uj", "dram_uj", "gpu_uj", "rest_uj")


class Question(NamedTuple):
    """What a report is about."""

    kind: str
    """job, user, account, region, partition or site."""
    subject: str
    from_utc: datetime | None = None
    to_utc: datetime | None = None
    cluster: str | None = None

    def parameters(self) -> Row:
        """The parameters of the queries in reports/*.sql; None does not restrict."""
        chosen = dict.fromkeys(("job", "user", "account", "region", "partition"))
        if self.kind in chosen:
            chosen |= {self.kind: self.subject}
        return chosen | {"cluster": self.cluster, "from_utc": self.from_utc, "to_utc": self.to_utc}


def build(ledger: Ledger, question: Question, *, now: datetime | None = None) -> dict[str, Any]:
    """The report's content; raises NothingFoundError where the ledger has nothing to say."""
    parameters = question.parameters()
    runs = _query(ledger, "jobs", parameters)
    has_books = question.kind in ("site", "region")
    books = _query(ledger, "books", parameters)[0] if has_books else None
    if not runs and not (books and books["counter_uj"]):
        raise NothingFoundError(
            f"no data for {question.kind} {question.subject} in {_spoken(question)}",
            hint="eco2ai-hpc report --site shows what there is",
        )
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "software": __version__,
        "kind": question.kind,
        "subject": question.subject,
        "period": {"from_utc": _iso(question.from_utc), "to_utc": _iso(question.to_utc)},
        "generated_at_utc": _iso(now or datetime.now(UTC).replace(tzinfo=None, microsecond=0)),
        "totals": _totals(runs),
    }
    if books:
        content["books"] = _books(books)
        content["site_totals"] = _site_totals(books)
        content["unknown_time"] = [_plain(row) for row in _query(ledger, "unknown", parameters)]
    content["jobs"] = [_job(run) for run in runs]
    content["factors"] = [_plain(row) for row in _query(ledger, "factors", parameters)]
    content["meters"] = [_plain(row) for row in _query(ledger, "meters", parameters)]
    content["labels"] = _labels(content["meters"])
    return content


def _labels(meters: Sequence[Row]) -> list[str]:
    """What must stand at the head of the report: that the counters are no real machine's."""
    simulated = sorted({row["node"] for row in meters if "simulated" in (row["cpu_model"] or "").lower()})
    return [f"Simulated counters on {', '.join(simulated)}: no figure here is a real machine's."] if simulated else []


def _query(ledger: Ledger, name: str, parameters: Row) -> list[Row]:
    """Run reports/<name>.sql with those of the parameters that it names."""
    text = Path(resources.path("reports", f"{name}.sql")).read_text(encoding="utf-8")
    return ledger.rows(text, {key: value for key, value in parameters.items() if f"${key}" in text})


def _job(run: Row) -> dict[str, Any]:
    energy_uj = _integer(run["energy_uj"])
    return {
        "job_id": run["job_id"],
        "job_label": run["job_label"],
        "run_key": run["run_id"],
        "name": run["job_name"],
        "cluster": run["cluster"],
        "user": run["user_name"],
        "uid": run["uid"],
        "account": run["account"],
        "partition": run["partition"],
        "region": run["region"],
        "state": run["state"],
        "started_at_utc": _iso(run["started_at_utc"]),
        "ended_at_utc": _iso(run["ended_at_utc"]),
        "nodes": run["nodes"],
        "energy_uj": energy_uj,
        "energy_kwh": _kwh(energy_uj),
        "components": {name: _integer(run[name]) for name in _COMPONENTS},
        "own_use_uj": _integer(run["own_use_uj"]),
        "own_idle_uj": _integer(run["own_idle_uj"]),
        "system_share_uj": _integer(run["system_share_uj"]),
        **_emissions(run["co2e_g"], run["known_uj"], energy_uj),
        "grade": run["grade"],
        "coverage_ratio": run["coverage_ratio"],
        "gap_seconds": run["gap_seconds"],
    }


def _emissions(co2e_g: Decimal | None, known_uj: Decimal | None, energy_uj: int | None) -> dict[str, Any]:
    """Location-based kilograms; co2e_coverage_ratio is the part of the energy that has a factor at all.

    Intervals, the market-based and the embodied figure are not worked out yet: None, not 0.
    """
    ratio = round(int(known_uj or 0) / energy_uj, 6) if energy_uj else None
    return {
        "co2e_kg": None if co2e_g is None else float(co2e_g) / 1000,
        "co2e_kg_low": None,
        "co2e_kg_high": None,
        "co2e_kg_market": None,
        "embodied_kg": None,
        "co2e_coverage_ratio": ratio,
    }


def _totals(runs: Sequence[Row]) -> dict[str, Any]:
    """The jobs' sum. Runs without any figure are counted apart: their energy is unknown, not 0."""
    measured = [run for run in runs if run["energy_uj"] is not None]
    energy_uj = sum(int(run["energy_uj"]) for run in measured) if measured else None
    grams = [run["co2e_g"] for run in measured if run["co2e_g"] is not None]
    return {
        "runs": len(runs),
        "runs_without_figure": len(runs) - len(measured),
        "energy_uj": energy_uj,
        "energy_kwh": _kwh(energy_uj),
        "components": {name: _sum(measured, name) for name in _COMPONENTS},
        "own_use_uj": _sum(measured, "own_use_uj"),
        "own_idle_uj": _sum(measured, "own_idle_uj"),
        "system_share_uj": _sum(measured, "system_share_uj"),
        **_emissions(sum(grams, Decimal(0)) if grams else None, sum(run["known_uj"] for run in measured), energy_uj),
        "coverage_ratio": _coverage(runs),
        "grade": _worst_grade(measured),
        "energy_uj_by_grade": _by_grade(measured),
        "gap_seconds": round(sum(run["gap_seconds"] or 0 for run in runs), 3),
    }


def _coverage(runs: Sequence[Row]) -> float | None:
    """Node time with known energy over all node time of the runs."""
    life_s = sum(run["life_seconds"] or 0 for run in runs)
    known_s = sum(run["known_seconds"] or 0 for run in runs)
    return round(known_s / life_s, 6) if life_s else None


def _worst_grade(runs: Sequence[Row]) -> str | None:
    grades = [GRADES.index(run["grade"]) for run in runs if run["grade"]]
    return GRADES[max(grades)] if grades else None


def _by_grade(runs: Sequence[Row]) -> dict[str, int]:
    """How much of the energy rests on what."""
    grades = [grade for grade in GRADES if any(run["grade"] == grade for run in runs)]
    return {grade: sum(int(run["energy_uj"]) for run in runs if run["grade"] == grade) for grade in grades}


def _books(books: Row) -> dict[str, Any]:
    names = ("counter_uj", "jobs_uj", "unallocated_uj", "system_uj", "gap_uj")
    return {name: _integer(books[name]) for name in names} | {"gap_seconds": books["gap_seconds"]}


def _site_totals(books: Row) -> dict[str, Any]:
    """The whole counted energy, whoever it was booked to."""
    energy_uj = _integer(books["counter_uj"])
    seconds = books["seconds"] or 0
    coverage = round(1 - (books["gap_seconds"] or 0) / seconds, 6) if seconds else None
    return {
        "nodes": books["nodes"],
        "energy_uj": energy_uj,
        "energy_kwh": _kwh(energy_uj),
        **_emissions(books["co2e_g"], books["known_uj"], energy_uj),
        "coverage_ratio": coverage,
        "grade": _site_grade(coverage, is_modelled=bool(books["is_modelled"])),
    }


def _site_grade(coverage: float | None, *, is_modelled: bool) -> str | None:
    """As for runs (sql/6_accounts/run.sql): 99 % of the time known by counters is measured."""
    if coverage is None:
        return None
    if is_modelled:
        return "modelled"
    return "measured" if coverage >= 0.99 else "partly_measured"


def _sum(rows: Sequence[Row], name: str) -> int | None:
    values = [int(row[name]) for row in rows if row[name] is not None]
    return sum(values) if values else None


def _integer(value: Decimal | int | None) -> int | None:
    return None if value is None else int(value)


def _kwh(energy_uj: int | None) -> float | None:
    return None if energy_uj is None else energy_uj / UJ_PER_KWH


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat() + "Z"


def _plain(row: Row) -> dict[str, Any]:
    return {key: _iso(value) if isinstance(value, datetime) else value for key, value in row.items()}


def _spoken(question: Question) -> str:
    if question.from_utc is None and question.to_utc is None:
        return "all time"
    return f"{_iso(question.from_utc) or 'the beginning'} to {_iso(question.to_utc) or 'now'}"
