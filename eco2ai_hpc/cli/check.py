"""`eco2ai-hpc check`."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import click

from eco2ai_hpc import config as configuration
from eco2ai_hpc.cli import emit, format_option, option
from eco2ai_hpc.errors import FINDINGS
from eco2ai_hpc.ledger import open_ledger

_SHOWN = 10


@click.command("check")
@option("ledger")
@format_option()
@option("output")
def command(ledger: str | None, format_: str, output: str | None) -> int:
    """Prove that the books balance; exit 0 only when no rule is violated.

    \b
    Example:
      eco2ai-hpc check --format json
    """
    with open_ledger(configuration.path_of("ledger", ledger)) as opened:
        found = opened.checks()
        problems = opened.problems()
    if format_ == "json":
        result = {"schema": "eco2ai-hpc/check/1", "rules": found, "ingest_problems": problems}
        emit(json.dumps(result, indent=2, default=_plain), output)
    else:
        emit(_text(found, problems), output)
    return FINDINGS if any(found.values()) else 0


def _text(found: dict[str, list[dict[str, Any]]], problems: list[dict[str, Any]]) -> str:
    lines = []
    for rule, rows in found.items():
        lines.append(f"{'FAIL' if rows else 'ok  '} {rule.replace('_', ' ')}")
        lines += ["     " + ", ".join(f"{key}={_plain(value)}" for key, value in row.items()) for row in rows[:_SHOWN]]
        if len(rows) > _SHOWN:
            lines.append(f"     … and {len(rows) - _SHOWN} more")
    if problems:
        lines.append(f"input that could not be used ({len(problems)}; the rest was loaded):")
        for row in problems[:_SHOWN]:
            where = f"{row['file']}:{row['line']}" if row["line"] else row["file"]
            lines.append(f"     {where}: expected {row['expected']}, found {row['found']!r}")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() + "Z" if isinstance(value, datetime) else value
