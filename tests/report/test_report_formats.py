"""Every format says the same, and says it as it did before."""

import copy
import csv
import html.parser
import io
import json
import math

import pytest

from eco2ai_hpc.report import wording
from eco2ai_hpc.report.formats import FORMATS, render
from eco2ai_hpc.report.table import COLUMNS

SUFFIX = {"text": "txt", "json": "json", "csv": "csv", "html": "html"}


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


class Data(html.parser.HTMLParser):
    """The exact values that the page holds for machines, with the words shown for them."""

    def __init__(self, page):
        super().__init__()
        self.values, self._value = [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self._value = dict(attrs)["value"] if tag == "data" else None

    def handle_data(self, data):
        if self._value is not None:
            self.values.append((self._value, data))
            self._value = None


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", ["site", "job"])
def test_a_report_looks_as_it_did(name, format_, request, golden):
    golden(f"report.{name}.{SUFFIX[format_]}", render(request.getfixturevalue(name), format_))


@pytest.mark.parametrize("name", ["site", "job"])
def test_a_narrow_terminal_has_its_own_layout(name, request, golden):
    golden(f"report.{name}.80.txt", render(request.getfixturevalue(name), "text", width=80))


@pytest.mark.parametrize("format_", FORMATS)
def test_rendering_changes_nothing_and_ends_with_a_newline(content, format_):
    before = copy.deepcopy(content)
    assert render(content, format_).endswith("\n")
    assert content == before


def test_an_unknown_format_names_the_known_ones(content):
    with pytest.raises(ValueError, match="unknown format 'yaml', known: text, json, csv, html"):
        render(content, "yaml")


def test_json_is_the_content_itself_in_ascii(content):
    text = render(content, "json")
    assert json.loads(text) == content
    assert text.isascii()


def test_json_refuses_what_is_not_a_number(job):
    job["totals"]["co2e_kg"] = math.nan
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(job, "json")


def test_the_jobs_of_the_csv_add_up_to_the_totals(content):
    rows = rows_of(render(content, "csv"))
    assert len(rows) == content["totals"]["runs"]
    for name in ("energy_uj", "own_use_uj", "own_idle_uj", "system_share_uj"):
        assert sum(int(row[name]) for row in rows if row[name]) == content["totals"][name], name
    for name in ("cpu_uj", "dram_uj"):
        assert sum(int(row[name]) for row in rows if row[name]) == content["totals"]["components"][name], name
    co2e_kg = math.fsum(float(row["co2e_kg"]) for row in rows if row["co2e_kg"])
    assert co2e_kg == pytest.approx(content["totals"]["co2e_kg"], rel=1e-9)


def test_each_figure_of_the_csv_is_the_jobs_own(content):
    for row, job in zip(rows_of(render(content, "csv")), content["jobs"], strict=True):
        assert row["energy_uj"] == ("" if job["energy_uj"] is None else str(job["energy_uj"]))
        assert row["energy_kwh"] == ("" if job["energy_kwh"] is None else repr(job["energy_kwh"]))
        assert row["co2e_kg"] == ("" if job["co2e_kg"] is None else repr(job["co2e_kg"]))


def test_every_key_of_a_job_has_its_column(content):
    for job in content["jobs"]:
        assert set(job) - {"components"} | set(job["components"]) <= set(COLUMNS)


def test_csv_lines_end_as_rfc_4180_says(job):
    text = render(job, "csv")
    assert text.count("\r\n") == text.count("\n") == 1 + len(job["jobs"])


def test_text_and_page_show_the_totals(content):
    totals, counted = content["totals"], wording.figure(content)
    text, page = render(content, "text"), Data(render(content, "html")).values
    for figure in (totals, counted):
        energy, mass = wording.energy(figure["energy_uj"]), wording.mass(figure["co2e_kg"])
        assert f"{energy}, {mass} CO2e" in text
        assert (str(figure["energy_uj"]), energy) in page
        assert (repr(figure["co2e_kg"]), mass) in page


def test_text_and_page_show_every_run(content):
    text, page = render(content, "text"), Data(render(content, "html")).values
    for run in content["jobs"]:
        if run["energy_uj"] is None:
            continue
        assert wording.energy(run["energy_uj"]) in text
        assert (str(run["energy_uj"]), wording.energy(run["energy_uj"])) in page


def test_the_figure_comes_first_in_one_line(site, job):
    for width in (60, 80, 200):
        assert render(site, "text", width=width).splitlines()[0] == (
            "site, 2026-11: 17.0 kWh, 0.849 kg CO2e (location-based, lifecycle), 11 runs, modelled, coverage 99.9 %"
        )
    assert render(job, "text").splitlines()[0] == (
        "job 4714, all time: 6.83 kWh, 0.354 kg CO2e (location-based, lifecycle), "
        "2 runs, partly measured, coverage 99.0 %"
    )


def test_the_books_of_text_and_page_add_up_to_the_microjoule(site):
    books = site["books"]
    assert books["counter_uj"] == sum(books[f"{name}_uj"] for name in ("jobs", "unallocated", "system", "gap"))
    for out in (render(site, "text", width=100), render(site, "html")):
        for name in ("jobs", "unallocated", "system", "gap", "counter"):
            assert f"{books[f'{name}_uj']:,}" in out


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_text_stays_within_its_width(content, width):
    lines = render(content, "text", width=width).splitlines()
    assert max(map(len, lines[1:])) <= width


def test_text_has_colours_only_when_asked(content):
    assert "\x1b" not in render(content, "text")
    assert "\x1b[1m" in render(content, "text", color=True)


def test_what_is_unknown_is_a_dash_and_never_nought(site):
    unknown = next(run for run in site["jobs"] if run["energy_uj"] is None)
    line = next(line for line in render(site, "text", width=120).splitlines() if line.startswith(unknown["job_label"]))
    assert line.split()[6:9] == ["-", "-", "-"]
    row = next(row for row in rows_of(render(site, "csv")) if row["run_key"] == unknown["run_key"])
    assert {row[name] for name in COLUMNS if name.endswith(("_uj", "_kwh", "_kg"))} == {""}
    assert "1 run without any figure" in render(site, "html")


def test_books_without_unknown_time_have_no_unknown_line(site):
    assert "of node time without known energy" in render(site, "text")
    site["books"]["gap_seconds"] = 0.0
    for format_ in ("text", "html"):
        assert "of node time without known energy" not in render(site, format_)


def test_modelled_meters_are_announced_before_the_figure(site, job):
    page = render(site, "html")
    assert page.index("Modelled, not measured. n3") < page.index('id="figure"')
    assert "Read this first" not in render(job, "html")
    assert "Modelled" not in render(job, "text")


def test_labels_and_simulated_meters_are_announced(job):
    job["labels"] = ["Simulated site: no figure here is real"]
    job["meters"][0]["why"] = "Simulated CPU, replayed trace"
    for format_ in ("text", "html"):
        out = render(job, format_)
        assert "Simulated site: no figure here is real" in out
        assert "Simulated: not from hardware. n1: Simulated CPU, replayed trace" in out


def test_a_modelled_figure_is_announced_even_where_no_meter_says_so(job):
    job["totals"]["grade"] = "modelled"
    assert "Modelled: no counter was there" in render(job, "text")


def test_a_site_without_any_job_has_books_and_no_nought(site):
    for key, value in site["totals"].items():
        site["totals"][key] = {"runs": 0, "runs_without_figure": 0}.get(key, {} if isinstance(value, dict) else None)
    site["jobs"] = []
    assert "Where the energy went" in render(site, "html")
    assert "0 runs" in render(site, "text")
    assert rows_of(render(site, "csv")) == []


def test_a_content_of_the_contract_alone_is_enough(site):
    """Without the keys that content.py adds to the contract's."""
    bare = {
        key: site[key] for key in ("schema", "kind", "subject", "period", "generated_at_utc", "totals", "books", "jobs")
    }
    for format_ in FORMATS:
        assert render(bare, format_)


def test_a_report_without_a_factor_says_so(job):
    job["factors"] = []
    for row in (job["totals"], *job["jobs"]):
        row["co2e_kg"] = None
        row["co2e_coverage_ratio"] = 0.0
    assert "CO2e unknown" in render(job, "text").splitlines()[0]
    assert "their CO<sub>2</sub>e is unknown" in render(job, "html")


def test_an_interval_a_market_figure_and_embodied_carbon_show_when_they_are_known(job):
    job["totals"] |= {"co2e_kg_low": 0.3, "co2e_kg_high": 0.41, "co2e_kg_market": 0.0123, "embodied_kg": 1.5}
    for format_ in ("text", "html"):
        out = render(job, format_)
        for words in ("0.300 kg to 0.410 kg", "12.3 g", "1.50 kg"):
            assert words in out, (format_, words)
        assert "Not worked out" not in out


def test_a_page_for_people_lists_the_largest_of_very_many_runs(job):
    run = job["jobs"][0]
    job["jobs"] = [run | {"job_label": f"j{number}", "energy_uj": number} for number in range(wording.JOB_ROWS + 5)]
    for format_ in ("text", "html"):
        out = render(job, format_)
        assert "The 1,000 largest of 1,005 runs" in out
        assert "j1004" in out
    assert len(rows_of(render(job, "csv"))) == wording.JOB_ROWS + 5
