"""How a report puts its content into words: units, shares, times, sentences. One home for text and HTML.

Nothing here computes a figure of the books: it chooses a unit and rounds for the eye. Unknown (None) reads "-", not 0.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from eco2ai_hpc.units import UJ_PER_KWH

Content = dict[str, Any]
UNKNOWN = "-"
JOB_ROWS = 1000
"""A page for people lists at most so many jobs, the largest; CSV and JSON list all."""

_UJ_PER_WH = UJ_PER_KWH / 1000
# Each unit with its size and the smallest value that it prints: kWh and kg stay in use up to 10,000, as budgets do.
_ENERGY_UNITS = (
    ("GWh", 1e9, 1e10), ("MWh", 1e6, 1e7), ("kWh", 1e3, 1e2),
    ("Wh", 1.0, 1e-1), ("mWh", 1e-3, 1e-4), ("µWh", 1e-6, 0.0),
)  # fmt: skip
_MASS_UNITS = (
    ("kt", 1e9, 1e10), ("t", 1e6, 1e7), ("kg", 1e3, 1e2),
    ("g", 1.0, 1e-1), ("mg", 1e-3, 1e-4), ("µg", 1e-6, 0.0),
)  # fmt: skip
_DECIMALS = ((1.0, 3), (10.0, 2), (100.0, 1))
_INVISIBLE = {"Cf", "Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
"""Invisible, but letters of several scripts and of emoji need them."""

GRADE_WORDS = {
    "measured": "measured",
    "partly_measured": "partly measured",
    "modelled": "modelled",
    "estimated": "estimated",
}
GRADE_MEANING = {
    "measured": "counters of the hardware cover at least 99 % of the node time.",
    "partly_measured": "counters cover less than 99 % of it. What is missing is not guessed, so the figure is too low.",
    "modelled": "no counter was there: busy CPU time stands in for it. Good for comparing, not for absolute figures.",
    "estimated": "nothing was seen of the run: the figure follows from its allocation alone.",
}


class Part(NamedTuple):
    """One line of a sum: a share of a whole."""

    key: str
    title: str
    meaning: str
    energy_uj: int | None
    share: float | None


class Meter(NamedTuple):
    """Counters of one kind: what they are, where they count, what they say of themselves (or nothing)."""

    name: str
    domains: str
    nodes: str
    why: str


def energy(energy_uj: int | None) -> str:
    """Microjoules in the unit that suits the value: `1.24 kWh`, `380 Wh`, `2.26 mWh`."""
    return _in_unit(None if energy_uj is None else energy_uj / _UJ_PER_WH, _ENERGY_UNITS)


def mass(mass_kg: float | None) -> str:
    """Kilograms in the unit that suits the value: `1.24 kg`, `21.0 g`, `0.117 mg`."""
    return _in_unit(None if mass_kg is None else mass_kg * 1000, _MASS_UNITS)


def _in_unit(value: float | None, units: Sequence[tuple[str, float, float]]) -> str:
    if value is None:
        return UNKNOWN
    if value == 0:
        return f"0 {next(name for name, size, _ in units if size == 1.0)}"
    sign, value = ("-", -value) if value < 0 else ("", value)
    name, size, _ = next(unit for unit in units if value >= unit[2])
    scaled = value / size
    if scaled < 0.1:
        return f"{sign}<0.1 {name}"
    decimals = next((digits for limit, digits in _DECIMALS if scaled < limit), 0)
    return f"{sign}{scaled:,.{decimals}f} {name}"


def percent(ratio: float | None) -> str:
    """`99.8 %`; what is nearly all or nearly nothing is not rounded to 100 or 0."""
    if ratio is None:
        return UNKNOWN
    if ratio < 0:
        return f"-{percent(-ratio)}"
    if ratio in (0, 1):
        return f"{ratio * 100:.0f} %"
    if 0 < ratio < 0.001:
        return "<0.1 %"
    if 0.999 < ratio < 1:
        return ">99.9 %"
    return f"{ratio * 100:.1f} %"


def share(part: int | None, whole: int | None) -> float | None:
    """The part of the whole; None where either is unknown or there is no whole."""
    return None if part is None or not whole else part / whole


def duration(seconds: float | None) -> str:
    """`2 d 3 h`, `12 min 5 s`, `0.25 s`: the two largest units."""
    if seconds is None:
        return UNKNOWN
    if 0 < seconds < 10:
        return f"{seconds:.3g} s"
    rest, words = round(seconds), []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {name}")
    return " ".join(words[:2]) or "0 s"


def elapsed(job: Content, generated_at_utc: str) -> str:
    """Slurm's [D-]HH:MM:SS, `0.35 s` where that would be nothing; a run that goes on has a `+`."""
    started, ended = job["started_at_utc"], job["ended_at_utc"]
    if started is None:
        return UNKNOWN
    span = max(_moment(ended or generated_at_utc) - _moment(started), timedelta())
    if timedelta() < span < timedelta(seconds=1):
        return f"{span.total_seconds():.2g} s"
    hours, rest = divmod(span.seconds, 3600)
    text = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    return (f"{span.days}-{text}" if span.days else text) + ("" if ended else "+")


def moment(iso: str | None) -> str:
    """`2026-11-23 10:00:00`, in UTC."""
    return UNKNOWN if iso is None else f"{_moment(iso):%Y-%m-%d %H:%M:%S}"


def period(content: Content) -> str:
    """`2026-11`, `2026`, `2026-11-23`, `2026-11-01 to 2026-11-08 UTC` (its end is not in it), `all time`."""
    begin, end = content["period"]["from_utc"], content["period"]["to_utc"]
    if begin is None and end is None:
        return "all time"
    if begin is None or end is None:
        return f"until {_edge(end)}" if begin is None else f"since {_edge(begin)}"
    first, last = _moment(begin), _moment(end)
    for length, pattern in ((1, "%Y-%m-%d"), (31, "%Y-%m"), (366, "%Y")):
        if f"{first:%Y-%m-%d}T00:00:00Z" == begin and _next(first, pattern) == last and (last - first).days <= length:
            return first.strftime(pattern)
    return f"{_edge(begin)} to {_edge(end)} UTC"


def _next(first: datetime, pattern: str) -> datetime:
    """Where the calendar unit ends that begins at `first`; `first` itself if none begins there."""
    if pattern == "%Y-%m-%d":
        return first + timedelta(days=1)
    if first.day != 1 or (pattern == "%Y" and first.month != 1):
        return first
    if pattern == "%Y" or first.month == 12:
        return first.replace(year=first.year + 1, month=1)
    return first.replace(month=first.month + 1)


def _edge(iso: str) -> str:
    text = moment(iso)
    return text.removesuffix(" 00:00:00").removesuffix(":00")


def _moment(iso: str) -> datetime:
    return datetime.fromisoformat(iso.removesuffix("Z"))


def visible(text: object) -> str:
    """The text with everything made visible that would act on a terminal or on the reading order."""
    return "".join(_visible_character(character) for character in str(text))


def _visible_character(character: str) -> str:
    category = unicodedata.category(character)
    if category not in _INVISIBLE or character in _JOINERS:
        return character
    # Direction marks and other invisible ones are named, since they deceive; a control character is just wrong.
    return f"<U+{ord(character):04X}>" if category in ("Cf", "Zl", "Zp") else "\ufffd"


def clip(text: object, length: int) -> str:
    """The visible text, at most `length` characters of it."""
    # What nobody will see need not be looked at: names of megabytes exist.
    shown = visible(str(text)[: length + 1])
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def who(job: Content) -> str:
    """The user's name, else the number."""
    if job.get("user"):
        return str(job["user"])
    return UNKNOWN if job.get("uid") is None else f"uid {job['uid']}"


def label(job: Content) -> str:
    """What Slurm's users call the job: `4711`, `9_1`, `12+0`."""
    return str(job.get("job_label") or job["job_id"])


def subject(content: Content) -> str:
    """`user alice`, `job 4711`, `site`."""
    kind, name = content["kind"], content["subject"]
    return str(kind) if name == kind else f"{kind} {clip(name, 60)}"


def figure(content: Content) -> Content:
    """The totals that the report is about: all counted energy for a site or region, else the jobs'."""
    totals: Content = content.get("site_totals") or content["totals"]
    return totals


def basis(content: Content) -> str:
    """How the CO2e was worked out: `location-based, lifecycle`; empty without any factor."""
    kinds = dict.fromkeys(row["factor_kind"] for row in content.get("factors", ()) if row.get("factor_kind"))
    return " and ".join(factor_kind(kind) for kind in kinds)


def factor_kind(kind: str) -> str:
    """`location-lifecycle` as `location-based, lifecycle`."""
    first, _, boundary = visible(kind).partition("-")
    based = f"{first}-based" if first in ("location", "market") else first
    return f"{based}, {boundary}" if boundary else based


def runs(count: int) -> str:
    return counted(count, "run")


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def grade(name: str | None) -> str:
    return "no figure" if name is None else GRADE_WORDS.get(name, visible(name))


def headline(content: Content) -> str:
    """The whole report in one line."""
    totals = figure(content)
    emitted = f"{mass(totals['co2e_kg'])} CO2e" if totals["co2e_kg"] is not None else "CO2e unknown"
    how = basis(content)
    return ", ".join(
        [
            f"{subject(content)}, {period(content)}: {energy(totals['energy_uj'])}",
            f"{emitted} ({how})" if how and totals["co2e_kg"] is not None else emitted,
            runs(content["totals"]["runs"]),
            grade(totals["grade"]),
            f"coverage {percent(totals['coverage_ratio'])}",
        ]
    )


def interval(totals: Content) -> str | None:
    """The 95 % interval of the location-based figure, where there is one."""
    low, high = totals.get("co2e_kg_low"), totals.get("co2e_kg_high")
    return None if low is None or high is None else f"{mass(low)} to {mass(high)} (95 % interval)"


def besides(totals: Content) -> list[tuple[str, float, str]]:
    """Figures that stand beside the location-based one and are never added to it: `(title, kilograms, meaning)`."""
    return [
        (title, totals[key], meaning)
        for key, title, meaning in (
            ("co2e_kg_market", "CO2e, market-based", "with the site's contracts and certificates; not added"),
            ("embodied_kg", "CO2e, embodied", "share of building the machines; not added"),
        )
        if totals.get(key) is not None
    ]


def books(content: Content) -> list[Part]:
    """To whom the counters' energy was booked; the last line is their sum."""
    known = content.get("books")
    if not known:
        return []
    lines = (
        ("jobs", "Jobs", "booked to the runs of jobs"),
        ("unallocated", "Unallocated", "idle power of capacity that no job held"),
        ("system", "System", "the node's own work that no reservation carries"),
        ("gap", "Gap", "counted, but at a time for which no record names an owner"),
        ("counter", "Counters", "everything that the nodes' counters counted"),
    )
    return _parts(known, lines, known["counter_uj"])


def unknown_time(books: Content) -> str:
    """The counters' time that holds no energy at all; empty where there is none."""
    if books["gap_seconds"] == 0:
        return ""
    return f"{duration(books['gap_seconds'])} of node time without known energy"


def components(totals: Content) -> list[Part]:
    """Which part of the nodes drew the energy of the jobs."""
    lines = (
        ("cpu", "Processors", "CPU packages"),
        ("dram", "Memory", "DRAM, where it has its own counter"),
        ("gpu", "GPUs", "whole boards"),
        ("rest", "Rest of the node", "only where the whole node is metered"),
    )
    return _parts(totals.get("components") or {}, lines, totals["energy_uj"])


def purposes(totals: Content) -> list[Part]:
    """What the energy of the jobs was drawn for."""
    lines = (
        ("own_use", "At work", "drawn by the jobs' own processes, above idle power"),
        ("own_idle", "Held idle", "idle power of what the jobs had reserved: the price of holding it"),
        ("system_share", "Share of the system", "the node's own work, carried by reservation"),
    )
    return _parts(totals, lines, totals["energy_uj"])


def _parts(values: Content, lines: Iterable[tuple[str, str, str]], whole: int | None) -> list[Part]:
    return [
        Part(key, title, meaning, values.get(f"{key}_uj"), share(values.get(f"{key}_uj"), whole))
        for key, title, meaning in lines
    ]


def factors(content: Content) -> list[dict[str, str]]:
    """The factors behind the CO2e, each value as words."""
    return [
        {
            "region": clip(row["region"], 40),
            "zone": clip(row.get("grid_zone") or UNKNOWN, 20),
            "intensity": _range(row, "intensity_{}_g_per_kwh", " g CO2e/kWh", "no factor"),
            "pue": _range(row, "pue_{}", "", UNKNOWN),
            "kind": factor_kind(row["factor_kind"]) if row.get("factor_kind") else UNKNOWN,
            "vintage": str(row.get("factor_year") or UNKNOWN),
            "set": clip(row.get("factor_set") or UNKNOWN, 40),
            **{key: clip(row.get(key) or UNKNOWN, 300) for key in ("title", "source", "licence", "digest")},
        }
        for row in content.get("factors", ())
    ]


def _range(row: Content, name: str, unit: str, absent: str) -> str:
    low, high = row.get(name.format("min")), row.get(name.format("max"))
    if low is None or high is None:
        return absent
    return f"{low:.6g}{unit}" if low == high else f"{low:.6g} to {high:.6g}{unit}"


def data_credits(content: Content) -> list[str]:
    """Whose data the factors are: a licence such as CC BY asks for this line."""
    rows = content.get("factors", ())
    return list(dict.fromkeys(clip(row["attribution"], 300) for row in rows if row.get("attribution")))


def meters(content: Content) -> list[Meter]:
    """The counters that count, those together of which the same is to be said."""
    domains: dict[tuple[str, str], dict[str, None]] = {}
    nodes: dict[tuple[str, str], dict[str, None]] = {}
    for row in content.get("meters", ()):
        key = (clip(row["zone"].partition(":")[0], 20), clip(row.get("why") or "", 300))
        domains.setdefault(key, {})[clip(row.get("domain") or UNKNOWN, 20)] = None
        nodes.setdefault(key, {})[clip(row["node"], 60)] = None
    return [Meter(key[0], _few(list(domains[key])), _few(list(nodes[key])), key[1]) for key in nodes]


def _few(names: Sequence[str], most: int = 8) -> str:
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most:,} more" if len(names) > most else text


def cautions(content: Content) -> list[str]:
    """What a reader must know before the first figure: simulated or modelled meters, the report's own labels."""
    found = [clip(text, 300) for text in content.get("labels") or ()]
    for meter in meters(content):
        lowered = f"{meter.name} {meter.why}".lower()
        if "simulat" in lowered:
            found.append(f"Simulated: not from hardware. {meter.nodes}: {meter.why or meter.name}")
        elif "modelled" in lowered:
            found.append(f"Modelled, not measured. {meter.nodes}: {meter.why.removeprefix('modelled: ')}")
    worst = figure(content)["grade"]
    if not found and worst in ("modelled", "estimated"):
        found.append(f"{GRADE_WORDS[worst].capitalize()}: {GRADE_MEANING[worst]}")
    return list(dict.fromkeys(found))


def unknowns(content: Content) -> list[str]:
    """What the report cannot say, each as a sentence."""
    totals, jobs_totals = figure(content), content["totals"]
    without = jobs_totals.get("runs_without_figure") or 0
    gap_seconds = (content.get("books") or jobs_totals).get("gap_seconds")
    factored = totals.get("co2e_coverage_ratio")
    sentences = [
        f"{runs(without)} without any figure: counted as unknown, not as 0." if without else None,
        f"{duration(gap_seconds)} of node time without known energy: in no figure." if gap_seconds else None,
        *(
            f"of it {duration(row['seconds'])} on {visible(row['nodes'])}: {visible(row['reason'])}"
            for row in content.get("unknown_time", ())
        ),
        f"No factor for {percent(1 - factored)} of the energy: CO2e covers {percent(factored)} of it."
        if factored is not None and factored < 1 and totals["co2e_kg"] is not None
        else None,
        "CO2e: no factor for the energy of this report." if totals["co2e_kg"] is None and totals["energy_uj"] else None,
    ]
    missing = [
        title
        for key, title in (
            ("co2e_kg_low", "the 95 % interval"),
            ("co2e_kg_market", "market-based CO2e"),
            ("embodied_kg", "embodied CO2e"),
        )
        if totals.get(key) is None
    ]
    if missing:
        sentences.append(f"Not worked out: {', '.join(missing)}.")
    return [sentence for sentence in sentences if sentence]


def listed_jobs(content: Content, limit: int = JOB_ROWS) -> tuple[list[Content], str | None]:
    """The jobs to list, in the report's order, and a sentence about those left out: the smallest."""
    jobs: list[Content] = content["jobs"]
    if len(jobs) <= limit:
        return jobs, None
    largest = sorted(range(len(jobs)), key=lambda index: -(jobs[index]["energy_uj"] or 0))[:limit]
    note = f"The {limit:,} largest of {len(jobs):,} runs; the totals hold all of them, CSV and JSON list all of them."
    return [jobs[index] for index in sorted(largest)], note
