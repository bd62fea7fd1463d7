"""`eco2ai-hpc report`."""

import getpass
import shutil
import sys
from datetime import UTC, datetime

import click

from eco2ai_hpc import config as configuration
from eco2ai_hpc.cli import emit, format_option, option
from eco2ai_hpc.errors import BadInputError
from eco2ai_hpc.ledger import open_ledger
from eco2ai_hpc.report import Question, build
from eco2ai_hpc.report.formats import FORMATS, render


@click.command("report")
@click.option("--user", is_flag=False, flag_value="", metavar="[NAME]", help="A user's jobs; without a name: mine.")
@click.option("--account", metavar="NAME", help="An account's jobs.")
@click.option("--job", metavar="ID", help="One job: 4711, an array task 9_3, a whole array 9, a het component 10+1.")
@click.option("--region", metavar="NAME", help="A region's jobs and books.")
@click.option("--partition", metavar="NAME", help="A partition's jobs.")
@click.option("--site", is_flag=True, help="All jobs, and the books.")
@click.option("--month", metavar="YYYY-MM", help="A calendar month, UTC.")
@click.option("--from", "from_", metavar="TIME", help="From this time on: 2026-11-01 or 2026-11-01T06:00, UTC.")
@click.option("--to", "to", metavar="TIME", help="Up to this time, exclusive.")
@click.option("--cluster", metavar="NAME", help="Only this cluster.")
@option("ledger")
@format_option(*FORMATS)
@option("output")
def command(
    user: str | None,
    account: str | None,
    job: str | None,
    region: str | None,
    partition: str | None,
    site: bool,
    month: str | None,
    from_: str | None,
    to: str | None,
    cluster: str | None,
    ledger: str | None,
    format_: str,
    output: str | None,
) -> int:
    """Energy and emissions of a job, user, account, partition, region or the whole site.

    \b
    Example:
      eco2ai-hpc report --user alice --month 2026-11
      eco2ai-hpc report --site --format html --output site.html
    """
    if user == "":
        user = getpass.getuser()
    subjects = {"user": user, "account": account, "job": job, "region": region, "partition": partition}
    chosen = [(kind, subject) for kind, subject in subjects.items() if subject is not None]
    if site:
        chosen.append(("site", cluster or "site"))
    if len(chosen) != 1:
        raise click.UsageError("name one of --user, --account, --job, --region, --partition, --site")
    start, end = _period(month, from_, to)
    question = Question(*chosen[0], from_utc=start, to_utc=end, cluster=cluster)
    with open_ledger(configuration.path_of("ledger", ledger)) as opened:
        content = build(opened, question)
    on_terminal = output is None and sys.stdout.isatty()
    width = shutil.get_terminal_size((100, 24)).columns if on_terminal else 120
    emit(render(content, format_, width=width, color=on_terminal), output)
    return 0


def _period(month: str | None, from_: str | None, to: str | None) -> tuple[datetime | None, datetime | None]:
    """The period asked for, UTC; half-open."""
    if month is None:
        return _time(from_, "--from"), _time(to, "--to")
    if from_ or to:
        raise click.UsageError("--month or --from/--to, not both")
    try:
        start = datetime.strptime(month, "%Y-%m")
    except ValueError:
        raise BadInputError(f"--month {month!r} is not a month", hint="--month 2026-11") from None
    return start, start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def _time(text: str | None, flag: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInputError(f"{flag} {text!r} is not a time", hint=f"{flag} 2026-11-01T06:00") from None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
