"""`eco2ai-hpc doctor`."""

import click

from eco2ai_hpc import config as configuration
from eco2ai_hpc import tracker


@click.command("doctor")
@click.option("--strict", is_flag=True, help="Exit 1 where something is wrong; else always 0.")
@click.option("--run-dir", metavar="DIR", help="The node's run directory (/run/eco2ai-hpc).")
@click.option("--spool-dir", metavar="DIR", help="The node's spool (/var/spool/eco2ai-hpc).")
def command(strict: bool, run_dir: str | None, spool_dir: str | None) -> int:
    """Say in one line whether this node's sampler is well; for Slurm's HealthCheckProgram.

    \b
    Example:
      eco2ai-hpc doctor
    """
    paths = (configuration.path_of("run_dir", run_dir), configuration.path_of("spool_dir", spool_dir))
    line, status = tracker.doctor(*paths, strict=strict)
    click.echo(line)
    return status
