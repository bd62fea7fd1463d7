"""The report's jobs as CSV (RFC 4180): one row a run, column names stable and with their unit, unknown is empty."""

import csv
import io
import re

from eco2ai_hpc.report.wording import Content

COLUMNS = (
    "job_id", "job_label", "run_key", "name", "cluster", "user", "uid", "account", "partition", "region", "state",
    "started_at_utc", "ended_at_utc", "nodes", "energy_uj", "energy_kwh", "cpu_uj", "dram_uj", "gpu_uj", "rest_uj",
    "own_use_uj", "own_idle_uj", "system_share_uj", "co2e_kg", "co2e_kg_low", "co2e_kg_high", "co2e_kg_market",
    "embodied_kg", "co2e_coverage_ratio", "grade", "coverage_ratio", "gap_seconds",
)  # fmt: skip
"""Scripts rely on names, spreadsheets on order: add at the end only."""

# Spreadsheets take a cell that begins so for a formula, quoted or not (OWASP, CSV injection).
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
# Line ends and tabs travel well inside quotes; other control characters and lone surrogates break readers.
_BREAKING = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def render(content: Content) -> str:
    """A header line and one line for each run."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for job in content["jobs"]:
        values = job | (job.get("components") or {})
        writer.writerow([_cell(values.get(name)) for name in COLUMNS])
    return file.getvalue()


def _cell(value: str | int | float | None) -> str | int | float:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    safe = _BREAKING.sub("\ufffd", value)
    return f"'{safe}" if _FORMULA.match(safe) else safe
