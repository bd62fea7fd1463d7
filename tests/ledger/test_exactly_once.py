"""Nothing is lost, nothing counts twice: redelivery, other content, partial copies, garbage, a collector that dies."""

import os
import signal
import subprocess
import sys
import time

from imaginary_nodes import Node
from ledger_books import SITE

from eco2ai_hpc import config, spool
from eco2ai_hpc.collector import collect

PACKAGE = "rapl:package-0"
TABLES = ("segment", "tick", "reading", "busy", "job_use", "job_mark", "slot")


def one_node(books, name="n1", **settings):
    node = Node(books.spool, name=name, **settings)
    node.start(0, 1, f"1@{name}-1")
    node.tick(0, {PACKAGE: 0}, busy_us=0, jobs={f"1@{name}-1": {}})
    node.tick(30, {PACKAGE: 900}, busy_us=10, jobs={f"1@{name}-1": {"cpu": 5}})
    return node.end(30, 1, f"1@{name}-1").seal()


def contents(books):
    return {
        table: sorted(
            str({k: v for k, v in row.items() if k != "ingested_at_utc"})
            for row in books.rows(f"select * from {table}")
        )
        for table in TABLES
    }


def test_delivering_a_segment_twice_changes_nothing(books):
    path = one_node(books)
    assert books.collect().segments_new == 1
    before = contents(books)
    copy = books.spool / "copies" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert books.collect().segments_new == 0
    assert contents(books) == before


def test_the_same_segment_from_two_places_in_one_load_counts_once(books):
    path = one_node(books)
    copy = books.spool / "copies" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert books.collect().segments_new == 1
    assert books.rows("select count(*) as n from tick")[0]["n"] == 2


def test_other_content_under_a_known_key_is_refused_and_shown(books):
    path = one_node(books)
    books.collect()
    before = contents(books)
    lines = path.read_bytes().replace(b":900", b":901")
    path.write_bytes(lines)
    summary = books.collect()
    assert (summary.segments_new, summary.segments_refused) == (0, 1)
    assert contents(books) == before
    (problem,) = books.rows("select * from ingest_problem")
    assert problem["file"] == str(path)
    assert problem["expected"].startswith("the content loaded before")


def test_an_altered_segment_is_loaded_with_its_digest_shown_as_broken(books):
    path = one_node(books)
    path.write_bytes(path.read_bytes().replace(b":900", b":901"))
    assert books.collect().bad_lines == 1
    assert books.rows("select intact from segment") == [{"intact": False}]
    assert "sha256" in books.rows("select expected from ingest_problem")[0]["expected"]


def test_a_partial_copy_waits_until_it_is_whole(books):
    path = one_node(books)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        assert books.collect().segments_new == 0
    path.write_bytes(whole)
    assert books.collect().segments_new == 1
    assert books.violations() == {}


def test_only_a_confirming_collector_lets_the_node_prune(books):
    path = one_node(books)
    books.collect()
    assert not spool.is_confirmed(str(path))
    collect(books.path, [str(books.spool)], config.parse(SITE, "site.toml"), jobs="none", confirm=True)
    assert spool.is_confirmed(str(path))
    assert books.collect().segments_found == 1  # the marker is no segment


def test_an_open_segment_is_left_alone(books):
    path = one_node(books)
    path.rename(str(path) + ".part")
    assert books.collect().segments_found == 0


def test_a_bad_line_becomes_a_problem_and_the_rest_loads(books):
    node = Node(books.spool)
    node.tick(0, {PACKAGE: 0}).tick(30, {PACKAGE: 100}).tick(60, {PACKAGE: 300})
    path = node.seal()
    lines = path.read_bytes().split(b"\n")
    lines[2] = b'{"k":"tick","t":"2026-11-23T10:0'
    path.write_bytes(b"\n".join(lines))
    summary = books.collect()
    assert summary.segments_new == 1
    problems = books.rows("select line, expected, found from ingest_problem where line is not null")
    assert problems == [
        {"line": 3, "expected": "a line of JSON with the key k", "found": '{"k":"tick","t":"2026-11-23T10:0'}
    ]
    assert books.booked() == {"system": 0, "unallocated": 300}
    assert books.violations() == {}


def test_a_samplers_word_on_itself_is_evidence(books):
    node = Node(books.spool)
    node.tick(0, {PACKAGE: 0})
    said = {"cpu_us": 1200, "rss_bytes": 14_000_000, "ticks": 1, "late_ms_max": 3, "read_errors": 0}
    node.lines.append({"k": "self", **node.moment(1), **said})
    node.seal()
    assert books.collect().bad_lines == 0
    assert books.rows("select * from sampler_self")[0]["rss_bytes"] == 14_000_000
    assert books.violations() == {}


def test_garbage_named_like_a_segment_is_reported(books):
    path = one_node(books)
    path.with_name("00000000-00000000-000007.ndjson").write_bytes(os.urandom(5000))
    summary = books.collect()
    assert (summary.segments_new, summary.segments_refused) == (1, 1)


def test_one_segment_with_impossible_values_does_not_hold_up_the_others(books):
    for number in range(5):
        one_node(books, name=f"n{number}")
    one_node(books, name="n9", cpus=2**40)
    summary = books.collect()
    assert (summary.segments_new, summary.segments_refused) == (5, 1)
    assert "n9" in books.rows("select file from ingest_problem")[0]["file"]


def test_an_empty_spool_is_no_error(books):
    assert books.collect().segments_found == 0
    assert books.violations() == {}


def test_segments_in_any_order_give_the_same_books(tmp_path):
    from ledger_books import Books

    results = []
    for number, order in enumerate(((0, 1, 2), (2, 0, 1), (1, 2, 0))):
        (tmp_path / str(number)).mkdir()
        books = Books(tmp_path / str(number))
        node, paths = Node(books.spool), []
        node.start(5, 1, "1@a-1", cpus=2)
        for part in range(3):
            at = part * 60
            job = {"1@a-1": {"cpu": part * 1_000_000}}
            node.tick(at, {PACKAGE: at * 1000}, busy_us=part * 2_000_000, jobs=job)
            node.tick(at + 30, {PACKAGE: at * 1000 + 7}, busy_us=part * 2_000_000 + 5, jobs=job)
            paths.append(node.seal())
        hidden = [path.rename(tmp_path / str(number) / path.name) for path in paths]
        for index in order:
            hidden[index].rename(paths[index])
            books.collect()
        books.execute("delete from calibration")
        results.append(books.booked())
    assert results[0] == results[1] == results[2]


COLLECT = "import sys; from eco2ai_hpc.cli import run; sys.exit(run(sys.argv[1:]))"


def test_a_collector_killed_at_any_instant_leaves_whole_segments(books, tmp_path, monkeypatch):
    for number in range(40):
        one_node(books, name=f"n{number}")
    command = [sys.executable, "-c", COLLECT, "collect", str(books.spool), "--jobs", "none", "--ledger", books.path]
    environment = os.environ | {"ECO2AI_HPC_CONFIG": str(tmp_path / "site.toml")}
    (tmp_path / "site.toml").write_text('cluster = "lab"\n')
    killed = 0
    for attempt in range(10):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.15 + 0.06 * attempt)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed, "the collector was always done before it could be killed"
    books.collect()
    assert books.rows("select count(*) as n from segment")[0]["n"] == 40
    assert books.rows("select count(*) as n from tick")[0]["n"] == 80
    assert books.violations() == {}
