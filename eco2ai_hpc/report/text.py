"""The report for a terminal: the figure in one line, then the books, the jobs, and where it all comes from."""

import io
from typing import TYPE_CHECKING

from eco2ai_hpc.report import wording
from eco2ai_hpc.report.wording import UNKNOWN, Content

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

WIDTH = 120
"""Columns where nobody says: a file or a pipe."""
_ROOMY = 118
"""From here on the states are written out; below, Slurm's own two letters."""
_NAME = 24
_STATE_CODES = {
    "BOOT_FAIL": "BF", "CANCELLED": "CA", "COMPLETED": "CD", "CONFIGURING": "CF", "COMPLETING": "CG", "DEADLINE": "DL",
    "FAILED": "F", "NODE_FAIL": "NF", "OUT_OF_MEMORY": "OOM", "PENDING": "PD", "PREEMPTED": "PR", "RUNNING": "R",
    "REQUEUED": "RQ", "RESIZING": "RS", "REVOKED": "RV", "SUSPENDED": "S", "TIMEOUT": "TO",
}  # fmt: skip
"""As squeue(1) and sacct(1) abbreviate them."""
_GRADE_STYLE = {"measured": "green", "partly_measured": "yellow", "modelled": "magenta", "estimated": "magenta"}


def render(content: Content, *, width: int | None = None, color: bool = False) -> str:
    """Plain text `width` columns wide, with terminal colours only if asked for."""
    # Loading rich takes a tenth of a second: only those who print text pay for it.
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file,
        width=max(width or WIDTH, 40),
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(_text(wording.headline(content), "bold"), soft_wrap=True)
    for caution in wording.cautions(content):
        console.print(_text(f"! {caution}", "bold yellow"))
    _books(console, content)
    _jobs(console, content)
    _sources(console, content)
    return "".join(line.rstrip() + "\n" for line in file.getvalue().split("\n")[:-1])


def _text(text: str, style: str = "") -> "Text":
    """Text that is never read as markup."""
    from rich.text import Text

    return Text(text, style=style)


def _table() -> "Table":
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")


def _section(console: "Console", title: str) -> None:
    console.print()
    console.print(_text(title, "bold"))


def _books(console: "Console", content: Content) -> None:
    parts = wording.books(content)
    if not parts:
        return
    _section(console, "Books: every counted microjoule has one owner")
    table = _table()
    table.add_column("booked to", no_wrap=True)
    for title in ("energy", "share", "exactly, µJ"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("which is")
    for part in parts:
        exact = UNKNOWN if part.energy_uj is None else f"{part.energy_uj:,}"
        total = part.key == "counter"
        row = ("= counters" if total else part.title.lower(), wording.energy(part.energy_uj), wording.percent(part.share))
        table.add_row(*(_text(cell) for cell in (*row, exact, part.meaning)), style="bold" if total else None)
    console.print(table)
    console.print(_text(f"time without known energy: {wording.duration(content['books']['gap_seconds'])} (no figure holds it)"))


def _jobs(console: "Console", content: Content) -> None:
    jobs, left_out = wording.listed_jobs(content)
    if not jobs:
        return
    _section(console, "Runs")
    roomy = console.width >= _ROOMY
    table = _table()
    table.add_column("job", overflow="fold", min_width=4)
    table.add_column("user", overflow="fold", min_width=5)
    table.add_column("account", overflow="fold", min_width=5)
    table.add_column("state" if roomy else "st", no_wrap=True)
    table.add_column("nodes", overflow="fold", min_width=5)
    for title in ("elapsed", "energy", "CO2e", "held idle" if roomy else "idle"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("grade", min_width=8)
    table.add_column("coverage" if roomy else "cover", justify="right", no_wrap=True)
    for job in jobs:
        grade = _text(wording.grade(job["grade"]), _GRADE_STYLE.get(job["grade"] or "", "red"))
        table.add_row(
            _text(wording.clip(wording.label(job), _NAME)),
            _text(wording.clip(wording.who(job), _NAME)),
            _text(wording.clip(job["account"] or UNKNOWN, _NAME)),
            _text(_state(job["state"], roomy)),
            _text(wording.clip(job["nodes"] or UNKNOWN, _NAME)),
            _text(wording.elapsed(job, content["generated_at_utc"])),
            _text(wording.energy(job["energy_uj"])),
            _text(wording.mass(job["co2e_kg"])),
            _text(wording.percent(wording.share(job["own_idle_uj"], job["energy_uj"]))),
            grade,
            _text(wording.percent(job["coverage_ratio"])),
        )
    console.print(table)
    if left_out:
        console.print(_text(left_out))
    _jobs_sum(console, content)


def _jobs_sum(console: "Console", content: Content) -> None:
    totals = content["totals"]
    console.print(
        _text(
            f"{wording.runs(totals['runs'])} together: {wording.energy(totals['energy_uj'])}, "
            f"{wording.mass(totals['co2e_kg'])} CO2e, coverage {wording.percent(totals['coverage_ratio'])}",
            "bold",
        )
    )
    for word, parts in (("of it", wording.purposes(totals)), ("by part", wording.components(totals))):
        known = [f"{p.title.lower()} {wording.energy(p.energy_uj)} ({wording.percent(p.share)})" for p in parts]
        console.print(_text(f"{word}: {', '.join(known)}".replace("gpus", "GPUs")))


def _state(state: str | None, roomy: bool) -> str:
    """Slurm's word (without the `by UID` of a cancelled job), or its two letters where room is short."""
    if not state:
        return UNKNOWN
    word = state.split(maxsplit=1)[0] if state.strip() else UNKNOWN
    return wording.clip(word, 14) if roomy else _STATE_CODES.get(word, wording.clip(word, 5))


def _sources(console: "Console", content: Content) -> None:
    factors = wording.factors(content)
    if factors:
        _section(console, "Factors: CO2e = energy x PUE x intensity")
    for row in factors:
        console.print(
            _text(
                f"{row['region']} (grid {row['zone']}): {row['intensity']}, PUE {row['pue']}; "
                f"{row['kind']}; {row['set']}, vintage {row['vintage']}"
            )
        )
    for credit in wording.credits(content):
        console.print(_text(f"data: {credit}"))
    meters = wording.meters(content)
    if meters:
        _section(console, "Meters")
    for why, nodes in meters:
        console.print(_text(f"{nodes}: {why}"))
    unknowns = wording.unknowns(content)
    if unknowns:
        _section(console, "What is not known")
    for sentence in unknowns:
        console.print(_text(sentence))
