"""The wrap rule, and the cutting at base slots."""

import pytest
from imaginary_nodes import WRAP_UJ, Node, zone

ENERGY = "select energy_uj, reason, slot_at_utc from interval_energy order by began_us"


def test_energy_between_two_readings_is_their_difference(books):
    Node(books.spool).tick(0, {"rapl:package-0": 1000}).tick(30, {"rapl:package-0": 4000}).seal()
    books.collect()
    assert [row["energy_uj"] for row in books.rows(ENERGY)] == [3000]


def test_a_wrap_is_the_published_range_and_not_a_reset(books):
    Node(books.spool).tick(0, {"rapl:package-0": WRAP_UJ - 500}).tick(30, {"rapl:package-0": 1500}).seal()
    books.collect()
    assert [row["energy_uj"] for row in books.rows(ENERGY)] == [2000]


def test_a_missed_read_widens_the_interval_and_loses_nothing(books):
    node = Node(books.spool)
    node.tick(0, {"rapl:package-0": 1000}).tick(30, {}).tick(60, {"rapl:package-0": 9000}).seal()
    books.collect()
    assert [row["energy_uj"] for row in books.rows(ENERGY)] == [8000]


@pytest.mark.parametrize(
    ("zone_of", "first", "second", "at", "reason"),
    [
        (zone("package", wrap=None), 5000, 4000, 30, "reset"),
        (zone("package", wrap=4_000_000_000), 1000, 2000, 30, "ambiguous"),
        (zone("package"), 1000, 9_100_000_000, 30, "implausible"),
        (zone("package"), 5000, 4000, 30, "implausible"),  # a reset that looks like a wrap
    ],
    ids=["fell-without-range", "a-whole-range-may-hide", "more-than-it-can-count", "reset-that-looks-like-a-wrap"],
)
def test_what_cannot_be_known_is_null_with_its_reason(books, zone_of, first, second, at, reason):
    node = Node(books.spool, zones={"rapl:package-0": zone_of})
    node.tick(0, {"rapl:package-0": first}).tick(at, {"rapl:package-0": second}).seal()
    books.collect()
    (row,) = books.rows(ENERGY)
    assert row["energy_uj"] is None
    assert row["reason"].startswith(reason)
    assert not books.violations()


def test_a_reboot_ends_the_series(books):
    Node(books.spool).tick(0, {"rapl:package-0": 1000}).tick(30, {"rapl:package-0": 2000}).seal()
    later = Node(books.spool, boot="11111111-ae20-42c2-ad05-c87e9fcd909c", run="bbbbbbbb")
    later.tick(600, {"rapl:package-0": 5000}).tick(630, {"rapl:package-0": 6000}).seal()
    books.collect()
    rows = books.rows(ENERGY)
    assert [row["energy_uj"] for row in rows] == [1000, None, 1000]
    assert rows[1]["reason"].startswith("reset: the node was started again")


def test_a_restarted_sampler_goes_on_with_the_same_counter(books):
    Node(books.spool).tick(0, {"rapl:package-0": 1000}).seal()
    Node(books.spool, run="bbbbbbbb").tick(30, {"rapl:package-0": 2500}).seal()
    books.collect()
    assert [row["energy_uj"] for row in books.rows(ENERGY)] == [1500]


def test_an_interval_over_a_slot_edge_is_cut_by_time_to_the_microjoule(books):
    # BEGAN is a slot edge: 895 s to 910 s is 5 s in one slot and 10 s in the next.
    Node(books.spool).tick(895, {"rapl:package-0": 0}).tick(910, {"rapl:package-0": 100}).seal()
    books.collect()
    assert [row["energy_uj"] for row in books.rows(ENERGY)] == [33, 67]


def test_zones_that_do_not_count_are_evidence_only(books):
    zones = {"rapl:package-0": zone("package"), "rapl:psys": zone("psys", used=False)}
    node = Node(books.spool, zones=zones)
    node.tick(0, {"rapl:package-0": 0, "rapl:psys": 0}).tick(30, {"rapl:package-0": 10, "rapl:psys": 99}).seal()
    books.collect()
    assert books.booked() == {"system": 0, "unallocated": 10}
    assert books.rows("select count(*) as n from reading")[0]["n"] == 4


def test_a_stepped_wall_clock_changes_no_energy(books):
    node = Node(books.spool)
    node.tick(0, {"rapl:package-0": 0}).tick(30, {"rapl:package-0": 300}).tick(60, {"rapl:package-0": 600})
    node.lines[1]["t"] = "2026-11-23T08:00:30.000000Z"  # two hours back, and forward again
    node.seal()
    books.collect()
    assert sum(row["energy_uj"] for row in books.rows(ENERGY)) == 600
    assert not books.violations()
