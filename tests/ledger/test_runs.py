"""Marks and Slurm's records joined: whose run it is, when it lived, what it held."""

import pytest
from imaginary_nodes import Node

PACKAGE = "rapl:package-0"
HEADER = "Cluster@x@DBIndex@x@JobID@x@JobIDRaw@x@User@x@UID@x@Account@x@Partition@x@QOS@x@State@x@Submit@x@Start@x@End@x@NNodes@x@NodeList@x@NCPUS@x@AllocTRES@x@JobName@x@AssocID"  # noqa: E501
T0 = 1795428000  # nodes.BEGAN as epoch seconds, 2026-11-23 10:00 UTC


def record(index, job, began, ended, *, label=None, state="COMPLETED", nodes="n1", cpus=1, name="job"):
    count = nodes.count(",") + 1
    fields = ["lab", index, label or job, job, "alice", 5001, "proj", "main", "normal", state, T0 + began]
    fields += [
        T0 + began,
        "Unknown" if ended is None else T0 + ended,
        count,
        nodes,
        cpus,
        f"cpu={cpus},mem=100M",
        name,
        4,
    ]
    return "@x@".join(map(str, fields))


@pytest.fixture
def load(books, tmp_path):
    def with_records(*records):
        (tmp_path / "jobs.txt").write_text("\n".join([HEADER, *records]) + "\n")
        books.collect(jobs=str(tmp_path / "jobs.txt"))
        return {row["run_id"]: row for row in books.rows("select * from run")}

    return with_records


def busy_node(books, seconds=200, **settings):
    """A node with a tick every 10 s, 10 J each; the caller adds marks and seals."""
    node = Node(books.spool, manager="slurm", interval_s=10, **settings)
    for at in range(0, seconds + 1, 10):
        node.tick(at, {PACKAGE: at * 1_000_000}, busy_us=0)
    return node


def energy(books, run_id):
    return int(books.rows("select sum(energy_uj) as uj from run_slot where run_id = ?", [run_id])[0]["uj"])


def test_a_requeued_job_has_two_runs_each_with_its_own_energy(books, load):
    node = busy_node(books)
    node.start(10, 7, "7@a-1", cpus=4).end(30, 7, "7@a-1").start(100, 7, "7@a-2", cpus=4).end(160, 7, "7@a-2").seal()
    runs = load(record(71, 7, 10, 30, state="REQUEUED"), record(72, 7, 100, 160))
    assert {run: row["state"] for run, row in runs.items()} == {"7@71": "REQUEUED", "7@72": "COMPLETED"}
    assert (energy(books, "7@71"), energy(books, "7@72")) == (20_000_000, 60_000_000)
    assert books.violations() == {}


def test_a_node_without_a_start_mark_has_the_records_times(books, load):
    busy_node(books, cpus=4).seal()
    runs = load(record(71, 7, 20, 60, cpus=4))
    assert runs["7@71"]["grade"] == "measured"
    assert energy(books, "7@71") == 40_000_000


def test_an_epilog_without_a_prolog_ends_what_the_record_began(books, load):
    node = busy_node(books)
    node.end(50, 7, "7@a-1").seal()
    load(record(71, 7, 20, 51, cpus=4))
    (run,) = books.rows("select * from stg_run")
    assert (run["end_source"], run["ended_ns"]) == ("epilog", 1_050_000_000_000)
    assert energy(books, "7@71") == 30_000_000


def test_an_epilog_that_came_twice_changes_nothing(books, load):
    node = busy_node(books)
    node.start(10, 7, "7@a-1", cpus=4).end(50, 7, "7@a-1").end(70, 7, "7@b-1").seal()
    load(record(71, 7, 10, 50, cpus=4))
    assert energy(books, "7@71") == 40_000_000
    assert books.violations() == {}


def test_a_run_without_an_end_mark_ends_with_its_record(books, load):
    node = busy_node(books)
    node.start(10, 7, "7@a-1", cpus=4).seal()
    load(record(71, 7, 10, 90, cpus=4, state="NODE_FAIL"))
    assert energy(books, "7@71") == 80_000_000


def test_a_running_job_has_what_it_used_so_far(books, load):
    node = busy_node(books)
    node.start(150, 7, "7@a-1", cpus=4).seal()
    runs = load(record(71, 7, 150, None, cpus=4, state="RUNNING"))
    assert runs["7@71"]["ended_at_utc"] is None
    assert energy(books, "7@71") == 50_000_000


def test_two_nodes_of_one_run_are_one_run(books, load):
    for name in ("n1", "n2"):
        busy_node(books, name=name).start(10, 7, f"7@{name}-1", cpus=4).end(60, 7, f"7@{name}-1").seal()
    load(record(71, 7, 10, 60, nodes="n1,n2", cpus=8))
    assert energy(books, "7@71") == 100_000_000


def test_a_node_without_evidence_lowers_the_coverage(books, load):
    busy_node(books).start(10, 7, "7@a-1", cpus=4).end(60, 7, "7@a-1").seal()
    runs = load(record(71, 7, 10, 60, nodes="n1,n2", cpus=8))
    assert runs["7@71"]["grade"] == "partly_measured"
    assert runs["7@71"]["coverage_ratio"] == pytest.approx(0.5)
    assert runs["7@71"]["gap_seconds"] == 50


def test_a_job_without_any_evidence_is_listed_without_a_figure(books, load):
    busy_node(books).seal()
    runs = load(record(71, 7, 10, 60, nodes="n8"))
    assert runs["7@71"]["grade"] is None
    assert books.rows("select * from run_slot where run_id = '7@71'") == []


def test_array_tasks_are_runs_of_their_own(books, load):
    node = busy_node(books)
    node.start(10, 13, "13@a-1", cpus=2).end(50, 13, "13@a-1").start(10, 9, "9@a-2", cpus=2).end(50, 9, "9@a-2").seal()
    runs = load(record(81, 13, 10, 50, label="9_1", cpus=2), record(82, 9, 10, 50, label="9_3", cpus=2))
    assert {run: row["job_label"] for run, row in runs.items()} == {"13@81": "9_1", "9@82": "9_3"}


def test_a_record_that_changed_keeps_its_history(books, load):
    busy_node(books).seal()
    load(record(71, 7, 10, None, state="RUNNING"))
    load(record(71, 7, 10, 60))
    load(record(71, 7, 10, 60))
    versions = books.rows("select version, state from slurm_job order by version")
    assert versions == [{"version": 1, "state": "RUNNING"}, {"version": 2, "state": "COMPLETED"}]


def test_loading_the_same_records_twice_changes_nothing(books, load):
    busy_node(books).start(10, 7, "7@a-1", cpus=2).end(60, 7, "7@a-1").seal()
    first = load(record(71, 7, 10, 60, cpus=2))
    before = books.booked()
    assert load(record(71, 7, 10, 60, cpus=2)) == first
    assert books.booked() == before


def test_hostile_names_come_through_as_they_are(books, load):
    name = "=cmd()|'<script>\"; drop table run; --"
    busy_node(books).start(10, 7, "7@a-1").end(60, 7, "7@a-1").seal()
    assert load(record(71, 7, 10, 60, name=name))["7@71"]["job_name"] == name
