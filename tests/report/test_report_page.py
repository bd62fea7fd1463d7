"""The page in a real Chromium: quiet, alone, readable, on a phone too.

Without a browser these tests are skipped; ECO2AI_HPC_REQUIRE_BROWSER=1 (make test) makes that a failure.
"""

import itertools
import os

import chromium
import pytest
from contents import ATTACKS, infested, load

from eco2ai_hpc.report.formats import render

WIDTHS = (320, 390, 577, 768, 1024, 1249, 1280, 1920)

# Every visible text against what is painted behind it (WCAG 2.1, 1.4.3): ratios below 4.5, or 3 for large text.
CONTRAST = """
(() => {
  const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const behind = node => {
    for (let e = node; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c;
    }
    return null;
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), size = parseFloat(style.fontSize), back = behind(e);
    const [a, b] = [light(rgba(style.color)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${walk.currentNode.data.trim().slice(0, 40)}`);
  }
  return found;
})()
"""
# Table cells whose text runs into the next cell or out of the page.
SPILLS = """
[...document.querySelectorAll("td, th, dd, dt, li, p, h1")]
  .filter(e => e.getClientRects().length && !(e.closest("thead")?.offsetWidth <= 1))
  .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1)
  .map(e => e.textContent.trim().slice(0, 60))
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    found = chromium.find()
    if found is None:
        reason = "no Chromium found (looked for ECO2AI_HPC_BROWSER and " + ", ".join(chromium.NAMES) + " on the PATH)"
        if os.environ.get("ECO2AI_HPC_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{reason}, and ECO2AI_HPC_REQUIRE_BROWSER=1 demands one: apt-get install chromium")
        pytest.skip(reason)
    with chromium.page(found, tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "report.html"
        path.write_text(render(content, "html"), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", ["content_site", "content_job"])
def test_a_page_says_nothing_on_the_console_and_asks_nobody(page, written, name):
    path = written(load(name))
    page.open(path)
    assert page.messages == []
    assert page.requests == [path.as_uri()]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_never_scrolls_sideways(page, written, width):
    page.open(written(load("content_site")), width=width, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(SPILLS) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_text_has_contrast_enough(page, written, dark, width):
    page.open(written(load("content_site")), width=width, dark=dark)
    assert page.evaluate(CONTRAST) == []


def test_light_and_dark_differ(page, written):
    background = "getComputedStyle(document.body).backgroundColor"
    path = written(load("content_job"))
    page.open(path)
    light = page.evaluate(background)
    page.open(path, dark=True)
    assert page.evaluate(background) != light


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ascii(attack[:20]))
def test_hostile_strings_do_nothing_in_a_browser(page, written, attack):
    path = written(infested(attack))
    page.open(path, width=390, height=844)
    assert page.messages == []
    assert page.requests == [path.as_uri()]
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_headings_and_tables_have_their_meaning(page, written):
    page.open(written(load("content_site")))
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert (
        page.evaluate("[...document.querySelectorAll('table')].filter(t => !t.caption?.textContent.trim()).length") == 0
    )
    assert page.evaluate("document.querySelectorAll('th:not([scope])').length") == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_it_prints(page, written, tmp_path):
    page.open(written(load("content_site")))
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
