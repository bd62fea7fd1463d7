"""Unknown time reaches the reader with its reason; it is in no figure."""

from imaginary_nodes import Node, zone

from eco2ai_hpc.ledger import open_ledger
from eco2ai_hpc.report import Question, build
from eco2ai_hpc.report.formats import render

PACKAGE = "rapl:package-0"


def test_a_reset_is_shown_with_its_seconds_its_node_and_its_reason(books):
    node = Node(books.spool, zones={PACKAGE: zone("package", wrap=None)})
    node.start(0, 1, "1@a-1", cpus=4)
    node.tick(0, {PACKAGE: 5000}, jobs={"1@a-1": {}}).tick(30, {PACKAGE: 100}, jobs={"1@a-1": {}})
    node.tick(60, {PACKAGE: 1_000_100}, jobs={"1@a-1": {}}).end(60, 1, "1@a-1").seal()
    books.collect()
    with open_ledger(books.path) as ledger:
        content = build(ledger, Question("site", "site"))
    assert (content["books"]["counter_uj"], content["books"]["gap_seconds"]) == (1_000_000, 30)
    assert content["unknown_time"] == [{"reason": "reset: the counter fell", "seconds": 30, "nodes": "n1"}]
    (job,) = content["jobs"]
    assert (job["grade"], job["coverage_ratio"], job["gap_seconds"]) == ("partly_measured", 0.5, 30)
    for format_ in ("text", "html"):
        assert "reset: the counter fell" in render(content, format_)
