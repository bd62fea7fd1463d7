"""The report as one self-contained page: no script, no request, every foreign string harmless."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eco2ai_hpc import resources
from eco2ai_hpc.report import wording
from eco2ai_hpc.report.wording import UNKNOWN, Content, Part

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_BAR_WIDTH = 1000
_BAR_LEAST = 4
"""A part that exists is seen, however small; the table beside the bar has its true share."""
_NAME = 48
_TOOLTIP = 1000


class Segment(NamedTuple):
    """One piece of a stacked bar, in the units of its viewBox."""

    key: str
    title: str
    x: float
    width: float


def render(content: Content) -> str:
    """The whole page."""
    jobs, left_out = wording.listed_jobs(content)
    totals = wording.figure(content)
    books = wording.books(content)
    purposes, components = wording.purposes(content["totals"]), wording.components(content["totals"])
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            content=content,
            style=_style(),
            totals=totals,
            jobs_totals=content["totals"],
            basis=wording.basis(content),
            interval=wording.interval(totals),
            besides=wording.besides(totals),
            subject=wording.subject(content),
            period=wording.period(content),
            cautions=wording.cautions(content),
            books=books,
            unknown_time=wording.unknown_time(content["books"]) if books else "",
            books_bar=bar([part for part in books if part.key != "counter"]),
            sums=[
                ("Purpose", "What it was drawn for", purposes, bar(purposes)),
                ("Component", "What drew it", components, bar(components)),
            ],
            jobs=jobs,
            left_out=left_out,
            factors=wording.factors(content),
            credits=wording.data_credits(content),
            meters=wording.meters(content),
            unknowns=wording.unknowns(content),
            grade_meaning=wording.GRADE_MEANING,
        )
    )


def bar(parts: list[Part]) -> list[Segment]:
    """Where each known and positive part lies in a bar that is _BAR_WIDTH wide."""
    drawn = [part for part in parts if part.energy_uj is not None and part.energy_uj > 0]
    whole = sum(part.energy_uj or 0 for part in drawn)
    widths = [max(_BAR_WIDTH * (part.energy_uj or 0) / whole, _BAR_LEAST) for part in drawn]
    shrink = _BAR_WIDTH / sum(widths) if widths else 1.0
    segments, x = [], 0.0
    for part, width in zip(drawn, widths, strict=True):
        segments.append(Segment(part.key, part.title, round(x, 2), round(width * shrink, 2)))
        x += width * shrink
    return segments


def _environment() -> "Environment":
    # Loading jinja2 is for those who want a page.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resources.path("reports")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "duration": wording.duration,
        "energy": _energy,
        "foreign": _foreign,
        "grade": wording.grade,
        "mass": _mass,
        "moment": wording.moment,
        "percent": _percent,
        "plain_percent": wording.percent,
    }
    environment.globals |= {
        "elapsed": wording.elapsed,
        "label": wording.label,
        "runs": wording.runs,
        "counted": wording.counted,
        "share": wording.share,
        "who": wording.who,
        "UNKNOWN": UNKNOWN,
    }
    return environment


def _style() -> "Markup":
    from markupsafe import Markup

    # Our own file, not a foreign string.
    return Markup(Path(resources.path("reports", "style.css")).read_text(encoding="utf-8"))  # noqa: S704


def _energy(energy_uj: int | None) -> "Markup":
    """The figure in words, with the exact microjoules for machines."""
    return _data(energy_uj, wording.energy(energy_uj))


def _mass(mass_kg: float | None) -> "Markup":
    """The figure in words, with the kilograms for machines."""
    return _data(mass_kg, wording.mass(mass_kg))


def _percent(ratio: float | None) -> "Markup":
    return _data(ratio, wording.percent(ratio))


def _data(value: float | None, words: str) -> "Markup":
    from markupsafe import Markup

    if value is None:
        return Markup('<span class="unknown" title="unknown">{}</span>').format(words)
    return Markup('<data value="{}">{}</data>').format(repr(value), words)


def _foreign(text: Any, length: int = _NAME) -> "Markup":
    """A string that somebody else chose: isolated in its reading direction, made visible, clipped."""
    from markupsafe import Markup

    if text is None or text == "":
        return Markup('<span class="unknown" title="unknown">{}</span>').format(UNKNOWN)
    shown = wording.clip(text, length)
    if len(str(text)) <= length:
        return Markup("<bdi>{}</bdi>").format(shown)
    return Markup('<bdi title="{}">{}</bdi>').format(wording.clip(text, _TOOLTIP), shown)
