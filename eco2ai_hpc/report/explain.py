"""From kilograms back to counter readings: every input of a job's figure with its source.

The last line is the figure that `report --job` prints, worked out from the same rows.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from eco2ai_hpc.errors import NothingFoundError
from eco2ai_hpc.ledger import Ledger, Row
from eco2ai_hpc.ledger.connection import sql_text
from eco2ai_hpc.units import UJ_PER_J, UJ_PER_KWH, US_PER_S, UW_PER_W

SCHEMA = "eco2ai-hpc/explain/1"


def explain(ledger: Ledger, job: str, cluster: str | None = None) -> dict[str, Any]:
    """Everything a job's figure rests on, run by run; raises NothingFoundError for an unknown job."""
    runs = ledger.rows(sql_text("explain", "run.sql"), {"job": job, "cluster": cluster})
    if not runs:
        raise NothingFoundError(f"no job {job} in the ledger", hint="eco2ai-hpc report --site lists the jobs")
    return {"schema": SCHEMA, "job": job, "runs": [_run(ledger, run) for run in runs]}


def _run(ledger: Ledger, run: Row) -> dict[str, Any]:
    key = {"cluster": run["cluster"], "run_id": run["run_id"]}
    parts = {
        name: [_json(row) for row in ledger.rows(sql_text("explain", f"{name}.sql"), key)]
        for name in ("life", "counter", "carbon")
    }
    energies = [row["energy_uj"] for row in parts["counter"] if row["energy_uj"] is not None]
    grams = [row["co2e_g"] for row in parts["carbon"] if row["co2e_g"] is not None]
    return {
        **_json(run),
        **parts,
        "energy_uj": sum(energies) if energies else None,
        "energy_kwh": sum(energies) / UJ_PER_KWH if energies else None,
        "co2e_kg": float(sum(grams)) / 1000 if grams else None,
    }


def _json(row: Row) -> dict[str, Any]:
    return {key: _value(value) for key, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat() + "Z"
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    return value


def as_text(found: dict[str, Any]) -> str:
    """The same as a chain that a person can follow with a pocket calculator."""
    lines: list[str] = []
    for run in found["runs"]:
        lines += _run_text(run)
    return "\n".join(lines)


def _run_text(run: dict[str, Any]) -> list[str]:
    who = f"{run['user_name'] or 'unknown user'}, account {run['account'] or '-'}"
    lines = [
        f"job {run['job_label']} (run {run['run_id']} on {run['cluster']}), {who}, {run['state'] or 'state unknown'}",
        f"  {run['started_at_utc']} to {run['ended_at_utc'] or 'now'} on {run['nodes']}",
        "",
        "1 where it ran and what it held",
    ]
    lines += [line for life in run["life"] for line in _life_text(life)]
    lines += ["", "2 what the counters counted meanwhile, and the job's part"]
    lines += [line for counter in run["counter"] for line in _counter_text(counter)] or ["  no counter: unknown"]
    lines += ["", f"  energy: {_sum_text([c['energy_uj'] for c in run['counter']])}", "", "3 from energy to emissions"]
    lines += [_carbon_text(carbon) for carbon in run["carbon"]] or ["  no energy, no emissions: unknown"]
    lines += ["", _figure(run), ""]
    return lines


def _life_text(life: dict[str, Any]) -> list[str]:
    used = "unknown" if life["cpu_us"] is None else f"{life['cpu_us'] / US_PER_S:.2f} s"
    held = f"{life['cpus']} of {life['node_cpus']} CPUs" if life["cpus"] is not None else "CPUs unknown"
    estimated = " (record's CPUs / nodes)" if life["is_cpus_estimated"] and life["cpus"] is not None else ""
    return [
        f"  {life['node']}: {life['began_at_utc']} to {life['ended_at_utc']} (end known by {life['end_source']})",
        f"    held {held}{estimated}, CPU time used {used}",
        f"    start: {life['start_evidence'] or 'no mark'}",
        f"    end:   {life['end_evidence'] or 'no mark'}",
    ]


def _counter_text(counter: dict[str, Any]) -> list[str]:
    idle = f"{counter['idle_uw'] / UW_PER_W:.2f} W idle" if counter["idle_uw"] is not None else "idle power unknown"
    lines = [
        f"  {counter['node']} {counter['zone']}: {_joules(counter['counter_uj'])} in {counter['intervals']} intervals, "
        f"{idle} ({counter['calibration'] or 'not calibrated: all of it goes by use'})",
        f"    from {counter['first_evidence']}",
        f"    to   {counter['last_evidence']}",
    ]
    if counter["unknown_intervals"]:
        lines.append(f"    {counter['unknown_intervals']} intervals unknown: {counter['reasons']}")
    if counter["energy_uj"] is not None:
        lines.append(
            f"    job: own use {_joules(counter['own_use_uj'])} + own idle {_joules(counter['own_idle_uj'])} + "
            f"system share {_joules(counter['system_share_uj'])} = {_joules(counter['energy_uj'])}"
        )
    return lines


def _carbon_text(carbon: dict[str, Any]) -> str:
    if carbon["co2e_g"] is None:
        return f"  region {carbon['region'] or 'unknown'}: {_joules(carbon['energy_uj'])}, no factor: emissions unknown"
    kwh = carbon["energy_uj"] / UJ_PER_KWH
    return (
        f"  region {carbon['region']}: {kwh:.9f} kWh x PUE {carbon['pue']:g} x {carbon['intensity_g_per_kwh']:g} g/kWh "
        f"= {carbon['co2e_g']:.9f} g\n"
        f"    {carbon['factor_kind']} factor of {carbon['grid_zone']}, {carbon['factor_year']}, set "
        f"{carbon['factor_set']}: {carbon['source']} ({carbon['digest']})"
    )


def _sum_text(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{' + '.join(map(_joules, known))} = {_joules(sum(known))}" if known else "unknown"


def _joules(energy_uj: int | None) -> str:
    return "unknown" if energy_uj is None else f"{energy_uj / UJ_PER_J:.6f} J"


def _figure(run: dict[str, Any]) -> str:
    energy = "unknown" if run["energy_kwh"] is None else f"{run['energy_kwh']!r} kWh"
    emissions = "unknown" if run["co2e_kg"] is None else f"{run['co2e_kg']!r} kg CO2e (location-based)"
    coverage = "unknown" if run["coverage_ratio"] is None else f"{run['coverage_ratio']:.4%}"
    return f"= {energy}, {emissions}, {run['grade'] or 'no grade'}, coverage {coverage}"
