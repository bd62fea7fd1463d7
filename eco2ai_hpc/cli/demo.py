"""`eco2ai-hpc demo`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from eco2ai_hpc import tracker
from eco2ai_hpc.cli import emit, option
from eco2ai_hpc.config import Region, Site
from eco2ai_hpc.ledger import open_ledger
from eco2ai_hpc.report import Question, build
from eco2ai_hpc.report.formats import render

DEMONSTRATION_TDP_W = 65.0
_BUSY = "import time; end = time.time() + {s}\nwhile time.time() < end: sum(range(10000))"
_HALF = (
    "import time; end = time.time() + {s}\nwhile time.time() < end:\n"
    "    stop = time.time() + 0.05\n    while time.time() < stop: sum(range(1000))\n    time.sleep(0.05)"
)


@click.command("demo")
@click.option("--output", "-o", default="demo", show_default=True, metavar="DIR", help="Where everything is written.")
@click.option("--seconds", default=10.0, show_default=True, help="How long the two commands run.")
@click.option("--zone", default="FR", show_default=True, help="Grid zone of the demonstration (ISO 3166-1 alpha-2).")
@option("quiet")
def command(output: str, seconds: float, zone: str, quiet: bool) -> int:
    """Account two real commands running side by side on this machine; needs no root and no Slurm.

    \b
    Example:
      eco2ai-hpc demo --zone DE
    """
    directory = Path(output) / time.strftime("%Y%m%dT%H%M%S")
    say: Callable[[str], object] = (lambda _text: None) if quiet else click.echo
    site = Site(None, "local", "none", "reserve-static-use-dynamic", (Region("demo", "*", zone, "UTC", None),), ())
    with _session(directory, say) as session:
        say(f"running two commands side by side for {seconds:g} s …")
        jobs = [
            session.start(name, [sys.executable, "-c", code.format(s=seconds)])
            for name, code in (("busy all the time", _BUSY), ("busy half the time", _HALF))
        ]
        for job in jobs:
            job.wait()
        time.sleep(0.5)
    session.close_books(site)
    with open_ledger(str(session.ledger)) as ledger:
        violations = {rule: rows for rule, rows in ledger.checks().items() if rows}
        content = build(ledger, Question("site", "demo"))
    page = Path(output) / "report.html"
    emit(render(content, "html"), str(page))
    emit(render(content, "json"), str(Path(output) / "report.json"))
    say("")
    say(render(content, "text", width=100))
    say("the books balance: jobs + unallocated + system + gap = counters" if not violations else f"{violations}")
    say(f"every step of a figure: eco2ai-hpc explain {jobs[0].process.pid} --ledger {session.ledger}")
    say(f"the report: {page.resolve()}")
    return 1 if violations else 0


def _session(directory: Path, say: Callable[[str], object]) -> tracker.LocalSession:
    """A session on real counters where they can be read, else on the model, with its label."""
    meters = tracker.probe()["meters"]
    assert isinstance(meters, list)
    for meter in meters:
        say(f"{meter['name']}: {meter['status']}{': ' + meter['reason'] if meter['reason'] else ''}")
    if any(meter["status"] == "works" for meter in meters):
        return tracker.LocalSession(directory)
    say(f"no counter here and no known TDP: a demonstration TDP of {DEMONSTRATION_TDP_W:g} W stands in")
    source = "a demonstration value, not this CPU's"
    return tracker.LocalSession(directory, tdp_w=DEMONSTRATION_TDP_W, tdp_source=source)
