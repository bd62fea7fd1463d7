"""Job names, accounts and users are chosen by strangers."""

import csv
import html.parser
import io
import re

import pytest
from contents import ATTACKS, FOREIGN, infested, load
from hypothesis import given, settings
from hypothesis import strategies as st

from eco2ai_hpc.report.formats import FORMATS, render

TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "header", "main", "section", "aside", "footer", "h1",
    "h2", "h3", "p", "span", "strong", "small", "sub", "br", "ul", "li", "dl", "dt", "dd", "div", "table", "caption",
    "thead", "tbody", "tfoot", "tr", "th", "td", "bdi", "data", "time", "svg", "defs", "pattern", "rect", "line",
}  # fmt: skip
VOID = {"meta", "link", "br", "rect", "line"}


class Structure(html.parser.HTMLParser):
    """What a parser makes of the page: elements, attributes, and whether everything is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open = set(), set(), []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= set(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= set(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def assert_harmless(page):
    structure = Structure(page)
    assert structure.tags <= TAGS
    assert structure.open == []
    for name, value in structure.attributes:
        assert not name.startswith("on"), name
        assert name != "src", value
        assert name != "href" or value == "data:,", value
    return structure


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ascii(attack[:20]))
def test_a_page_holds_foreign_strings_as_text_only(attack):
    assert_harmless(render(infested(attack), "html"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ascii(attack[:20]))
@pytest.mark.parametrize("format_", ["text", "html"])
def test_nothing_acts_on_a_terminal_or_on_the_reading_order(attack, format_):
    out = render(infested(attack), format_)
    assert not re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]", out)
    out.encode()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ascii(attack[:20]))
def test_no_cell_of_the_csv_is_a_formula(attack):
    rows = list(csv.reader(io.StringIO(render(infested(attack), "csv"), newline="")))
    assert {len(row) for row in rows} == {len(rows[0])}
    for row in rows[1:]:
        for name, cell in zip(rows[0], row, strict=True):
            assert name not in FOREIGN or not re.match(r"[=+\-@\t\r\n＝＋－＠]", cell), (name, cell)


def test_numbers_stay_numbers_in_the_csv():
    content = load("content_job")
    content["jobs"][0]["components"]["rest_uj"] = -42
    row = next(csv.DictReader(io.StringIO(render(content, "csv"))))
    assert row["rest_uj"] == "-42"


def test_markup_of_the_text_renderer_is_not_obeyed():
    assert "[red]mark" in render(infested("[red]markup[/red]"), "text", width=200)


def test_a_name_of_10_kb_is_clipped_with_its_beginning_in_the_tooltip():
    page = render(infested("n" * 10_000), "html")
    assert "n" * 1001 not in page
    assert 'title="' + "n" * 999 + "…" in page


def test_a_script_in_a_name_is_shown_as_it_is():
    assert "<script>alert(" in assert_harmless(render(load("content_site"), "html")).text


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60))
def test_any_string_is_harmless_in_every_format(attack):
    content = infested(attack)
    for format_ in FORMATS:
        render(content, format_, width=80).encode()
    assert_harmless(render(content, "html"))
