"""The report for a terminal: the figure in one line, then the books, the jobs, and where it all comes from."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from eco2ai_hpc.report import wording
from eco2ai_hpc.report.wording import UNKNOWN, Content

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Column = tuple[str, Callable[[Content], str], bool]
"""Title, what it says of a run, and whether it is a number: flush right and never wrapped."""

WIDTH = 120
"""Columns where nobody says: a file or a pipe."""
_ROOMY = 110
"""From here on each thing has its own column; below, states are Slurm's own letters and neighbours share a column."""
_NAME = 20
_STATE_CODES = {
    "BOOT_FAIL": "BF", "CANCELLED": "CA", "COMPLETED": "CD", "CONFIGURING": "CF", "COMPLETING": "CG", "DEADLINE": "DL",
    "FAILED": "F", "NODE_FAIL": "NF", "OUT_OF_MEMORY": "OOM", "PENDING": "PD", "PREEMPTED": "PR", "RUNNING": "R",
    "REQUEUED": "RQ", "RESIZING": "RS", "REVOKED": "RV", "SUSPENDED": "S", "TIMEOUT": "TO",
}  # fmt: skip
"""As squeue(1) and sacct(1) abbreviate them."""
_GRADE_STYLE = {"measured": "", "partly_measured": "yellow", "modelled": "magenta", "estimated": "magenta"}


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
    totals = wording.figure(content)
    interval = wording.interval(totals)
    if interval:
        console.print(_text(f"  CO2e: {interval}"))
    for title, mass_kg, meaning in wording.besides(totals):
        console.print(_text(f"  {title}: {wording.mass(mass_kg)} ({meaning})"))
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


def _table(gap: int = 2) -> "Table":
    from rich import box
    from rich.table import Table

    # The box itself puts one blank between columns.
    padding = (0, gap - 1, 0, 0)
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=False, header_style="bold")


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
        title = "= counters" if total else _inner(part.title)
        row = (title, wording.energy(part.energy_uj), wording.percent(part.share), exact, part.meaning)
        table.add_row(*(_text(cell) for cell in row), style="bold" if total else None)
    unknown = wording.unknown_time(content["books"])
    if unknown:
        table.add_row("unknown", UNKNOWN, UNKNOWN, UNKNOWN, _text(unknown))
    console.print(table)


def _inner(title: str) -> str:
    """A title inside a sentence."""
    return title if title.startswith("GPU") else title[:1].lower() + title[1:]


def _jobs(console: "Console", content: Content) -> None:
    jobs, left_out = wording.listed_jobs(content)
    if not jobs:
        return
    _section(console, "Runs")
    roomy = console.width >= _ROOMY
    columns = _columns(roomy, content["generated_at_utc"])
    table = _table(gap=2 if roomy else 1)
    for title, _, is_number in columns:
        if is_number:
            table.add_column(title, justify="right", no_wrap=True)
        else:
            table.add_column(title, overflow="fold", no_wrap=title in ("st", "state", "grade", "quality"))
    for job in jobs:
        style = _GRADE_STYLE.get(job["grade"] or "", "red")
        table.add_row(*(_text(say(job), style) for _, say, _ in columns))
    console.print(table)
    if left_out:
        console.print(_text(left_out))
    _jobs_sum(console, content)


def _columns(roomy: bool, generated_at_utc: str) -> list[Column]:
    """The columns of the table of runs, for a wide or a narrow terminal."""

    def account(job: Content) -> str:
        return wording.clip(job["account"] or UNKNOWN, _NAME)

    def user(job: Content) -> str:
        return wording.clip(wording.who(job), _NAME)

    def idle(job: Content) -> str:
        return wording.percent(wording.share(job["own_idle_uj"], job["energy_uj"]))

    nodes: Column = ("nodes", lambda job: wording.clip(job["nodes"] or UNKNOWN, _NAME), False)
    figures: list[Column] = [
        ("elapsed", lambda job: wording.elapsed(job, generated_at_utc), True),
        ("energy", lambda job: wording.energy(job["energy_uj"]), True),
        ("CO2e", lambda job: wording.mass(job["co2e_kg"]), True),
    ]
    first: Column = ("job", lambda job: wording.clip(wording.label(job), _NAME), False)
    if roomy:
        return [
            first,
            ("user", user, False),
            ("account", account, False),
            ("state", _state, False),
            nodes,
            *figures,
            ("held idle", idle, True),
            ("grade", lambda job: wording.grade(job["grade"]), False),
            ("coverage", lambda job: wording.percent(job["coverage_ratio"]), True),
        ]
    return [
        first,
        ("user, account", lambda job: f"{user(job)}, {account(job)}", False),
        ("st", _state_code, False),
        nodes,
        *figures,
        ("idle", idle, True),
        ("quality", _quality, False),
    ]


def _quality(job: Content) -> str:
    """Grade and coverage in one word."""
    if job["grade"] == "partly_measured":
        return f"part {job['coverage_ratio']:.0%}"
    return "none" if job["grade"] is None else wording.grade(job["grade"])


def _jobs_sum(console: "Console", content: Content) -> None:
    totals = content["totals"]
    line = (
        f"{wording.runs(totals['runs'])} together: {wording.energy(totals['energy_uj'])}, "
        f"{wording.mass(totals['co2e_kg'])} CO2e, coverage {wording.percent(totals['coverage_ratio'])}"
    )
    console.print(_text(line, "bold"))
    for parts in (wording.purposes(totals), wording.components(totals)):
        words = [
            f"{_inner(part.title)} {wording.energy(part.energy_uj)}"
            + (f" ({wording.percent(part.share)})" if part.share is not None else "")
            for part in parts
        ]
        console.print(_text(f"  = {' + '.join(words)}"))


def _state(job: Content) -> str:
    """Slurm's word, without the `by UID` of a cancelled job."""
    words = str(job["state"] or "").split()
    return wording.clip(words[0], 13) if words else UNKNOWN


def _state_code(job: Content) -> str:
    """The letters that squeue(1) and sacct(1) use where room is short."""
    word = _state(job)
    return _STATE_CODES.get(word, wording.clip(word, 3))


def _sources(console: "Console", content: Content) -> None:
    factors = wording.factors(content)
    if factors:
        _section(console, "Factors: CO2e = energy x PUE x intensity")
    for row in factors:
        kind = f"; {row['kind']}; {row['set']}, vintage {row['vintage']}" if row["kind"] != UNKNOWN else ""
        line = f"{row['region']} (grid zone {row['zone']}): {row['intensity']}, PUE {row['pue']}{kind}"
        console.print(_text(line))
    for credit in wording.data_credits(content):
        console.print(_text(f"data: {credit}"))
    meters = wording.meters(content)
    if meters:
        _section(console, "Meters")
    for meter in meters:
        console.print(
            _text(f"{meter.name} ({meter.domains}) on {meter.nodes}" + (f": {meter.why}" if meter.why else ""))
        )
    unknowns = wording.unknowns(content)
    if unknowns:
        _section(console, "What is not known")
    for sentence in unknowns:
        console.print(_text(f"- {sentence}"))
