"""GPUs and the rest of the node: who pays for boards that are held, and for what only the node meter sees."""

from imaginary_nodes import Node, zone

NODE, PACKAGE, GPU = "cray_pm:node", "rapl:package-0", "nvml:GPU-1b2c"


def counters(**joules):
    names = {"node": NODE, "package": PACKAGE, "gpu": GPU}
    return {names[name]: value * 1_000_000 for name, value in joules.items()}


def test_a_gpu_is_its_holders_idle_or_not(books):
    node = Node(books.spool, zones={GPU: zone("gpu", wrap=None, max_uw=700_000_000)})
    node.start(10, 1, "1@a-1", cpus=1)
    node.lines[-1]["gpus"] = ["GPU-1b2c"]
    node.start(10, 2, "2@a-2", cpus=1)
    for at, joules in ((0, 0), (10, 500), (20, 4000), (30, 4600)):
        jobs = {"1@a-1": {"cpu": 0}, "2@a-2": {"cpu": at * 1000}} if 10 <= at <= 20 else {}
        node.tick(at, counters(gpu=joules), busy_us=at * 2000, jobs=jobs)
    node.end(20, 1, "1@a-1").end(20, 2, "2@a-2").seal()
    books.collect()
    assert books.booked() == {"1@a-1": 3_500_000_000, "2@a-2": 0, "unallocated": 1_100_000_000, "system": 0}
    assert books.violations() == {}


def test_a_gpu_that_came_back_under_a_new_key_goes_on(books):
    first, second = GPU, GPU + "#2"
    node = Node(books.spool, zones={key: zone("gpu", wrap=None) for key in (first, second)})
    node.start(0, 1, "1@a-1", cpus=1)
    node.lines[-1]["gpus"] = ["GPU-1b2c"]
    jobs = {"1@a-1": {"cpu": 0}}
    node.tick(0, {first: 1_000_000}, jobs=jobs).tick(10, {first: 3_000_000}, jobs=jobs)
    node.tick(20, {second: 50}, jobs=jobs).tick(30, {second: 150}, jobs=jobs).end(30, 1, "1@a-1").seal()
    books.collect()
    assert books.booked()["1@a-1"] == 2_000_100
    assert books.violations() == {}


def test_integrated_power_is_graded_lower_than_a_counter(books):
    for name, method in (("n1", "counter"), ("n2", "integrated"), ("n3", "modelled")):
        node = Node(books.spool, name=name, zones={PACKAGE: zone("package") | {"method": method}})
        node.start(0, 1, f"1@{name}-1", cpus=4).tick(0, {PACKAGE: 0}).tick(10, {PACKAGE: 50}).end(10, 1, f"1@{name}-1")
        node.lines[0]["env"]["SLURM_JOB_ID"] = name
        for line in node.lines:
            if "job" in line:
                line["job"] = int(name[1])
        node.seal()
    books.collect()
    grades = {row["job_id"]: row["grade"] for row in books.rows("select job_id, grade from run")}
    assert grades == {1: "measured", 2: "partly_measured", 3: "modelled"}


def test_a_key_that_returns_after_a_restart_does_not_count_the_time_of_another(books):
    # X, then X#2 after a reset of the board; the sampler restarts and calls the board X again.
    again = GPU + "#2"
    node = Node(books.spool, zones={key: zone("gpu", wrap=None) for key in (GPU, again)})
    node.tick(0, {GPU: 1000}).tick(10, {GPU: 3000}).tick(20, {again: 100}).tick(30, {again: 700}).seal()
    later = Node(books.spool, run="bbbbbbbb", zones={GPU: zone("gpu", wrap=None)})
    later.tick(40, {GPU: 9000}).tick(50, {GPU: 9500}).seal()
    books.collect()
    assert sum(books.booked().values()) == 2000 + 600 + 500
    reasons = books.rows("select reason, count(*) as n from interval_energy where reason is not null group by reason")
    assert reasons == [{"reason": "reset: the counter began anew", "n": 2}]
    assert books.violations() == {}


def with_node_meter(books, *readings, calibrate=False):
    zones = {NODE: zone("node", wrap=None, max_uw=5_000_000_000), PACKAGE: zone("package")}
    node = Node(books.spool, zones=zones, cpus=4)
    node.start(0, 1, "1@a-1", cpus=2)
    for number, reading in enumerate(readings):
        node.tick(number * 10, counters(**reading), busy_us=number * 100, jobs={"1@a-1": {"cpu": 0}})
    node.end((len(readings) - 1) * 10, 1, "1@a-1").seal()
    books.collect()
    return {
        row["pool"]: row["uj"]
        for row in books.rows("select pool, cast(sum(energy_uj) as bigint) as uj from interval_energy group by pool")
    }


def test_the_rest_is_the_node_less_its_components(books):
    pools = with_node_meter(books, {"node": 0, "package": 0}, {"node": 1000, "package": 300})
    assert pools == {"cpu": 300_000_000, "rest": 700_000_000}
    assert sum(books.booked().values()) == 1_000_000_000
    assert books.violations() == {}


def test_a_negative_rest_stays_signed_and_the_books_close(books):
    pools = with_node_meter(books, {"node": 0, "package": 0}, {"node": 100, "package": 133})
    assert pools == {"cpu": 133_000_000, "rest": -33_000_000}
    (rest,) = books.rows("select * from booking where pool = 'rest' and account = 'job'")
    assert rest["energy_uj"] == rest["own_idle_uj"] == -16_500_000  # half of the node is held
    assert sum(books.booked().values()) == 100_000_000
    assert books.violations() == {}


def test_a_component_that_was_not_read_is_settled_with_the_next_reading(books):
    readings = [{"node": 0, "package": 0}, {"node": 1000}, {"node": 2000, "package": 600}]
    pools = with_node_meter(books, *readings)
    assert pools == {"cpu": 600_000_000, "rest": 1_400_000_000}
    assert books.violations() == {}


def test_an_unknown_component_is_part_of_the_rest(books):
    # The package counter was reset: its energy is unknown, the node's is not.
    readings = [{"node": 0, "package": 5000}, {"node": 1000, "package": 100}]
    pools = with_node_meter(books, *readings)
    assert pools == {"cpu": None, "rest": 1_000_000_000}
    assert sum(books.booked().values()) == 1_000_000_000
    assert books.violations() == {}


def test_who_holds_half_the_node_pays_half_its_idle_rest(books):
    with_node_meter(books, {"node": 0, "package": 0}, {"node": 1000, "package": 0})
    books.idle(1000, zone=NODE)
    (rest,) = books.rows("select * from booking where pool = 'rest' and account = 'job'")
    assert rest["own_idle_uj"] == 500_000_000
