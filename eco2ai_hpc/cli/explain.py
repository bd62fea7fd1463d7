"""`eco2ai-hpc explain`."""

import json

import click

from eco2ai_hpc import config as configuration
from eco2ai_hpc.cli import emit, format_option, option
from eco2ai_hpc.ledger import open_ledger
from eco2ai_hpc.report.explain import as_text, explain


@click.command("explain")
@click.argument("job")
@click.option("--cluster", help="Where a job id occurs on several clusters.")
@option("ledger")
@format_option()
@option("output")
def command(job: str, cluster: str | None, ledger: str | None, format_: str, output: str | None) -> int:
    """Show where a job's figure comes from: every input, down to file and line of the readings.

    \b
    Example:
      eco2ai-hpc explain 4711
    """
    with open_ledger(configuration.path_of("ledger", ledger)) as opened:
        found = explain(opened, job, cluster)
    emit(json.dumps(found, indent=2) if format_ == "json" else as_text(found), output)
    return 0
