"""`eco2ai-hpc collect`."""

import json
import sys
from collections.abc import Callable

import click

from eco2ai_hpc import config as configuration
from eco2ai_hpc.cli import emit, format_option, option
from eco2ai_hpc.collector import Summary, collect
from eco2ai_hpc.errors import SurroundingsError


@click.command("collect")
@click.argument("spool_dirs", nargs=-1, metavar="[SPOOL_DIR]...")
@click.option("--jobs", metavar="sacct|FILE|none", help="Job records: Slurm's, a file of sacct -P output, or none.")
@click.option(
    "--confirm", is_flag=True, help="Let the nodes prune what is in this ledger: the site's own, not a trial."
)
@option("config")
@option("ledger")
@format_option()
@option("quiet")
def command(
    spool_dirs: tuple[str, ...],
    jobs: str | None,
    confirm: bool,
    config: str | None,
    ledger: str | None,
    format_: str,
    quiet: bool,
) -> int:
    """Load evidence and job records into the ledger; a second run changes nothing.

    \b
    Example:
      eco2ai-hpc collect /var/spool/eco2ai-hpc --jobs sacct
    """
    site = configuration.load(config)
    directories = spool_dirs or (configuration.path_of("spool_dir"),)
    path = configuration.path_of("ledger", ledger)
    summary = collect(
        path, directories, site, jobs=jobs or site.jobs_source, confirm=confirm, progress=_progress(quiet)
    )
    if not quiet or format_ == "json":
        emit(json.dumps(summary._asdict(), indent=2) if format_ == "json" else _text(summary, path), None)
    if summary.jobs_failed:
        raise SurroundingsError(summary.jobs_failed, hint="--jobs FILE or --jobs none; the evidence itself is in")
    return 0


def _progress(quiet: bool) -> Callable[[str], None]:
    if quiet or not sys.stderr.isatty():
        return lambda _text: None
    return lambda text: click.echo(f"\r\033[K{text} …", nl=False, err=True)


def _text(summary: Summary, path: str) -> str:
    lines = [
        f"{summary.segments_new} of {summary.segments_found} segments were new, "
        f"{summary.jobs_changed} of {summary.jobs_read} job records new or changed -> {path}"
    ]
    if summary.calibrations_new:
        lines.append(f"idle power calibrated for {summary.calibrations_new} counters")
    if summary.segments_refused or summary.bad_lines or summary.job_problems:
        lines.append(
            f"could not be used: {summary.segments_refused} segments, {summary.bad_lines} lines, "
            f"{summary.job_problems} job records (eco2ai-hpc check lists them)"
        )
    if summary.nodes_without_region:
        names = ", ".join(summary.nodes_without_region[:5])
        lines.append(f"without a region, so without emissions: {names} (add them to a [[region]])")
    return "\n".join([*lines, *summary.warnings])
