"""Each rule of the books fires on a ledger made to break it, and on no sound one."""

from pathlib import Path

import pytest
from imaginary_nodes import Node, zone
from ledger_books import Books

CASES = Path(__file__).parent / "checks"
PACKAGE = "rapl:package-0"


@pytest.fixture
def sound(tmp_path):
    books = Books(tmp_path)
    node = Node(books.spool, zones={PACKAGE: zone("package")})
    node.start(0, 1, "1@a-1", cpus=1)
    node.tick(0, {PACKAGE: 0}, busy_us=0, jobs={"1@a-1": {}})
    node.tick(30, {PACKAGE: 9_000_000}, busy_us=4_000_000, jobs={"1@a-1": {"cpu": 3_000_000}})
    node.end(30, 1, "1@a-1").tick(60, {PACKAGE: 9_500_000}, busy_us=4_100_000).seal()
    books.collect()
    return books


def test_a_sound_ledger_violates_nothing(sound):
    assert sound.violations() == {}


@pytest.mark.parametrize("rule", sorted(path.stem for path in CASES.glob("*.sql")))
def test_a_rule_fires_where_it_is_broken(sound, rule):
    sound.execute((CASES / f"{rule}.sql").read_text())
    with_rule = sound_rows(sound, rule)
    assert with_rule, f"{rule} did not see what its case broke"


def sound_rows(books, rule):
    # Opened for reading: opening for writing would put the shipped views back.
    return books.rows((CASES.parents[2] / "sql" / "checks" / f"{rule}.sql").read_text())
