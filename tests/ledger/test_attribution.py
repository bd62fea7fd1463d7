"""Who gets which microjoule: worked cases of docs/attribution.md, and the law that nothing is lost."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imaginary_nodes import WRAP_UJ, Node, zone

PACKAGE = "rapl:package-0"


def test_without_a_job_the_energy_is_unallocated_or_system(books):
    Node(books.spool).tick(0, {PACKAGE: 0}, busy_us=0).tick(30, {PACKAGE: 3_000_000}, busy_us=3_000_000).seal()
    books.collect()
    assert books.booked() == {"unallocated": 0, "system": 3_000_000}


def test_idle_power_goes_by_reservation_and_the_rest_by_use(books):
    # 100 J in 10 s, 4 W idle: 40 J static, 60 J dynamic. The job holds 1 of 4 CPUs and used 3 s of 4 s busy.
    node = Node(books.spool)
    node.start(0, 1, "1@a-1", cpus=1)
    node.tick(0, {PACKAGE: 0}, busy_us=0, jobs={"1@a-1": {}})
    node.tick(10, {PACKAGE: 100_000_000}, busy_us=4_000_000, jobs={"1@a-1": {"cpu": 3_000_000}})
    node.end(10, 1, "1@a-1").seal()
    books.collect()
    books.idle(4)
    (job,) = books.rows("select * from booking where account = 'job'")
    assert (job["own_use_uj"], job["own_idle_uj"], job["system_share_uj"]) == (45_000_000, 10_000_000, 3_750_000)
    assert books.booked() == {"1@a-1": 58_750_000, "unallocated": 30_000_000, "system": 11_250_000}


def test_a_job_that_holds_all_cpus_gets_the_whole_node(books):
    zones = {PACKAGE: zone("package"), "rapl:package-0/dram": zone("dram")}
    node = Node(books.spool, zones=zones)
    node.start(0, 1, "1@a-1", cpus=4)
    node.tick(0, {PACKAGE: 0, "rapl:package-0/dram": 0}, busy_us=0, jobs={"1@a-1": {}})
    used = {"1@a-1": {"cpu": 3_000_000, "mem_limit": 1_000_000}}
    node.tick(10, {PACKAGE: 777_777_777, "rapl:package-0/dram": 55_555_555}, busy_us=9_000_000, jobs=used)
    node.end(10, 1, "1@a-1").seal()
    books.collect()
    books.idle(4)
    assert books.booked() == {"1@a-1": 833_333_332, "unallocated": 0, "system": 0}


def test_a_sleeping_job_pays_what_it_holds(books):
    node = Node(books.spool)
    node.start(0, 1, "1@a-1", cpus=2)
    node.tick(0, {PACKAGE: 0}, busy_us=0, jobs={"1@a-1": {}})
    node.tick(10, {PACKAGE: 40_000_000}, busy_us=0, jobs={"1@a-1": {"cpu": 0}})
    node.end(10, 1, "1@a-1").seal()
    books.collect()
    books.idle(4)
    assert books.booked() == {"1@a-1": 20_000_000, "unallocated": 20_000_000, "system": 0}


def test_dram_goes_by_the_memory_held(books):
    key = "rapl:package-0/dram"
    node = Node(books.spool, zones={key: zone("dram")}, mem_mib=4096)
    node.start(0, 1, "1@a-1", cpus=1)
    node.tick(0, {key: 0}, busy_us=0, jobs={"1@a-1": {}})
    node.tick(10, {key: 8_000_000}, busy_us=0, jobs={"1@a-1": {"cpu": 0, "mem_limit": 1024 * 1024 * 1024}})
    node.end(10, 1, "1@a-1").seal()
    books.collect()
    assert books.booked() == {"1@a-1": 2_000_000, "unallocated": 6_000_000, "system": 0}


def test_a_job_of_half_an_interval_pays_half_its_holding(books):
    node = Node(books.spool)
    node.tick(0, {PACKAGE: 0}, busy_us=0)
    node.start(5, 1, "1@a-1", cpus=4).end(10, 1, "1@a-1")
    node.tick(10, {PACKAGE: 40_000_000}, busy_us=0, jobs={"1@a-1": {}}).seal()
    books.collect()
    assert books.booked() == {"1@a-1": 20_000_000, "unallocated": 20_000_000, "system": 0}


def test_over_subscribed_jobs_share_and_nothing_is_unallocated(books):
    node = Node(books.spool)
    for number in (1, 2, 3):
        node.start(0, number, f"{number}@a-{number}", cpus=3)
    jobs = {f"{number}@a-{number}": {"cpu": 0} for number in (1, 2, 3)}
    node.tick(0, {PACKAGE: 0}, busy_us=0, jobs=jobs).tick(10, {PACKAGE: 100}, busy_us=0, jobs=jobs)
    node.seal()
    books.collect()
    assert books.booked() == {"1@a-1": 34, "2@a-2": 33, "3@a-3": 33, "unallocated": 0, "system": 0}


def test_a_hole_without_slurms_records_is_a_gap_until_they_come(books, tmp_path):
    node = Node(books.spool, manager="slurm")
    node.tick(0, {PACKAGE: 0}, busy_us=0).tick(300, {PACKAGE: 1_000_000}, busy_us=100).seal()
    books.collect()
    assert books.booked() == {"gap": 1_000_000}
    books.execute("insert into slurm_coverage values ('lab', '2026-11-23 09:00', '2026-11-23 11:00', 'test', now())")
    assert books.booked() == {"system": 1_000_000, "unallocated": 0}
    assert not books.violations()


@st.composite
def histories(draw):
    """A node's ticks with jobs that come and go: counters that wrap, readings that are missing."""
    steps = draw(
        st.lists(st.tuples(st.integers(1, 40), st.integers(0, 4_000_000_000), st.booleans()), min_size=1, max_size=12)
    )
    start = draw(st.integers(0, WRAP_UJ))
    jobs = draw(
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(0, 6), st.integers(0, 5)), max_size=5)
    )
    return start, steps, jobs, draw(st.integers(0, 60)), draw(st.integers(0, 10**6))


def write_history(root, name, history):
    start, steps, jobs, _idle_w, system_us = history
    node = Node(root, name=name)
    at, counter, busy = 0, start, 0
    use = dict.fromkeys(range(len(jobs)), 0)
    for number, (began, lasted, cpus, _) in enumerate(jobs):
        node.start(began, number + 1, f"{number + 1}@a-{number + 1}", cpus=cpus)
        node.end(began + lasted, number + 1, f"{number + 1}@a-{number + 1}")
    node.tick(0, {PACKAGE: counter}, busy_us=0)
    for seconds, energy_uj, is_read in [*steps, (10, 1, True)]:
        at += seconds
        # Below 150 W: always known, however many readings are missing.
        counter = (counter + min(energy_uj, seconds * 150_000_000)) % WRAP_UJ
        for number, (began, lasted, _, speed) in enumerate(jobs):
            if began < at and began + lasted > at - seconds:
                use[number] += speed * 100_000 * seconds
                busy += speed * 100_000 * seconds
        busy += system_us
        alive = {
            f"{number + 1}@a-{number + 1}": {"cpu": use[number]}
            for number, (began, lasted, _, _) in enumerate(jobs)
            if began <= at and began + lasted > at - seconds
        }
        node.tick(at, {PACKAGE: counter} if is_read else {}, busy_us=busy, jobs=alive)
    node.seal()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(histories(), min_size=1, max_size=12))
def test_jobs_unallocated_system_and_gaps_add_up_to_the_meter(tmp_path_factory, nodes):
    from ledger_books import Books

    books = Books(tmp_path_factory.mktemp("books"))
    for number, history in enumerate(nodes):
        write_history(books.spool, f"n{number}", history)
    books.collect()
    for number, history in enumerate(nodes):
        books.idle(history[3], node=f"n{number}")
    assert books.violations() == {}
    counted = books.rows("select cast(sum(energy_uj) as bigint) as uj from interval_energy")[0]["uj"]
    assert sum(books.booked().values()) == counted
    moved = sum(
        sum(min(energy, seconds * 150_000_000) for seconds, energy, _ in steps) + 1 for _, steps, _, _, _ in nodes
    )
    assert counted == moved


@pytest.mark.slow
def test_ten_thousand_random_node_histories_balance_in_one_ledger(tmp_path):
    import random

    from ledger_books import Books

    books, draw = Books(tmp_path), random.Random(20261123)
    for number in range(10_000):
        steps = [(draw.randint(1, 40), draw.randint(0, 4_000_000_000), draw.random() < 0.8) for _ in range(8)]
        jobs = [
            (draw.randint(0, 200), draw.randint(0, 200), draw.randint(0, 6), draw.randint(0, 5))
            for _ in range(draw.randint(0, 4))
        ]
        write_history(books.spool, f"n{number}", (draw.randint(0, WRAP_UJ), steps, jobs, 0, draw.randint(0, 10**6)))
    books.collect()
    assert books.violations() == {}
