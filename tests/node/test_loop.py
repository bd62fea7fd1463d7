"""The sampler's loop, with a clock that the test turns."""

import json
import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from node_tree import METER_TREES, SECOND, TEN_O_CLOCK, Node, write_tree

from eco2ai_hpc import meters, spool
from eco2ai_hpc.meters import Options
from eco2ai_hpc.model import Zone
from eco2ai_hpc.sampler.loop import safe_interval_s

JOB_CGROUP = "cgroup/system.slice/slurmstepd.scope/job_{}"


def seconds(line: dict) -> float:
    """Of the wall clock, since ten o'clock."""
    at = datetime.fromisoformat(line["t"]).astimezone(UTC).timestamp()
    return round(at - TEN_O_CLOCK / SECOND, 3)


def uptime(line: dict) -> float:
    return line["bt"] / SECOND - 86_400


def told(node: Node) -> list[tuple]:
    """Edges and the readings between them, briefly."""
    return [
        (line["k"], line["why"], *line["jobs"]) if line["k"] == "tick" else (line["k"], line["run"])
        for line in node.lines()
        if line["k"] in ("tick", "job_start", "job_end") and line["why" if "why" in line else "k"] != "clock"
    ]


def keys(node: Node, kind: str = "job_start") -> list[str]:
    return [line["run"] for line in node.lines(kind)]


# Ticks


def test_the_header_says_what_the_node_is_and_what_counts(node):
    sampler = node.begin()
    [header] = node.lines("header")
    assert header["zones"]["rapl:package-1/dram"] == {
        "domain": "dram", "wrap": 65712999613, "max_uw": 41250000, "used": True,
        "why": "beside its package, not inside", "method": "counter",
    }  # fmt: skip
    about = {
        key: header[key] for key in ("k", "v", "cluster", "node", "cpus", "sockets", "mem_mib", "interval_s", "manager")
    }
    assert about == {
        "k": "header", "v": 1, "cluster": "lab", "node": "n1", "cpus": 4, "sockets": 2, "mem_mib": 16000,
        "interval_s": 30.0, "manager": "slurm",
    }  # fmt: skip
    sampler.end(node.clock())
    [path] = spool.sealed_segments(str(node.spool_dir))
    assert spool.read_segment(path).header == header


def test_a_tick_holds_every_counter_the_busy_time_and_the_memory(node):
    node.begin()
    [tick] = node.ticks()
    assert tick["c"] == {
        "rapl:package-0": 123456789012, "rapl:package-0/dram": 2345678901,
        "rapl:package-1": 123456789013, "rapl:package-1/dram": 2345678902,
    }  # fmt: skip
    assert tick["busy"] == {"0": 200_000_000, "1": 200_000_000}
    assert tick["mem"] == (16384000 - 12288000) * 1024
    assert (tick["why"], tick["jobs"], seconds(tick)) == ("clock", {}, 0)
    assert "err" not in tick


@pytest.mark.parametrize("interval_s", [30, 10, 1])
def test_ticks_fall_on_multiples_of_the_interval_on_the_wall_clock(node, clock, interval_s):
    clock.go_on(0.4 * interval_s)
    sampler = node.begin(interval_s=interval_s)
    node.run(sampler, 4 * interval_s)
    assert [round(seconds(tick) / interval_s, 1) for tick in node.ticks()] == [0.4, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("step", [3600, 20, 1, -1, -20, -29, -45, -60, -3600, -86400 * 365])
def test_no_step_of_the_wall_clock_stops_the_ticks(node, clock, step):
    sampler = node.begin()
    node.run(sampler, 25)
    clock.set_wall(step)
    node.run(sampler, 200)
    times = [uptime(tick) for tick in node.ticks()]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) <= 37.6, "1.25 intervals"
    assert all(seconds(tick) % 30 < 0.01 for tick in node.ticks()[-3:]), "and on multiples again"


def test_a_wall_clock_that_is_set_again_and_again_does_not_stop_the_ticks(node, clock):
    sampler = node.begin()
    for _ in range(20):
        node.run(sampler, 20)
        clock.set_wall(-20)
    assert len(node.ticks()) >= 10


def test_a_sampler_that_slept_ticks_once_when_it_wakes(node, clock):
    sampler = node.begin()
    clock.go_on(3600)
    sampler.step(clock())
    node.run(sampler, 30)
    assert [seconds(tick) for tick in node.ticks()] == [0, 3600, 3630]


def test_a_meter_that_cannot_be_read_leaves_the_zone_out_and_says_why(node, clock):
    sampler = node.begin()
    node.counter("intel-rapl:1", "garbage")
    node.run(sampler, 30.5)
    node.counter("intel-rapl:1", 123456799999)
    node.run(sampler, 30)
    _, bad, good = node.ticks()
    assert bad["err"] == {"rapl:package-1": "not a number"}
    assert sorted(bad["c"]) == ["rapl:package-0", "rapl:package-0/dram", "rapl:package-1/dram"]
    assert good["c"]["rapl:package-1"] == 123456799999
    assert "err" not in good


def test_a_node_whose_busy_time_cannot_be_read_still_ticks(node):
    sampler = node.begin()
    (node.tree / "proc/stat").unlink()
    (node.tree / "proc/meminfo").write_text("")
    node.run(sampler, 30)
    last = node.ticks()[-1]
    assert (last["busy"], last["mem"]) == ({}, None)
    assert len(last["c"]) == 4


def test_without_any_meter_jobs_are_recorded_all_the_same(node):
    sampler = node.begin(opened=[])
    node.mark("start", 7)
    node.run(sampler, 1)
    assert node.ticks()[-1]["c"] == {}
    assert len(keys(node)) == 1


# Meters


class Bench:
    """A meter whose zones and readings the test sets."""

    def __init__(self, *keys: str, poll_s: float | None = None) -> None:
        self.poll_s = poll_s
        self.counters = dict.fromkeys(keys, 0)
        self.polled = 0

    @property
    def zones(self) -> tuple[Zone, ...]:
        return tuple(zone(key=key, domain="gpu", method="integrated") for key in self.counters)

    def read(self, counters, errors) -> None:
        counters |= self.counters

    def poll(self) -> None:
        self.polled += 1

    def devices_of(self, env) -> list[str]:
        return [f"GPU-{number}" for number in env.get("SLURM_JOB_GPUS", "").split(",") if number]

    def close(self) -> None:
        pass


def on_bench(*benches: Bench) -> list[meters.Outcome]:
    return [meters.Outcome("nvml", "works", "", bench) for bench in benches]


def test_when_zones_come_or_go_the_reading_begins_a_segment_that_knows_them(node):
    bench = Bench("nvml:GPU-1", "nvml:GPU-2")
    sampler = node.begin(opened=on_bench(bench))
    node.run(sampler, 30)
    del bench.counters["nvml:GPU-2"]
    node.run(sampler, 30)
    bench.counters["nvml:GPU-2#2"] = 5
    node.run(sampler, 60)
    sampler.end(node.clock())
    zones = [sorted(header["zones"]) for header in node.lines("header")]
    assert zones == [["nvml:GPU-1", "nvml:GPU-2"], ["nvml:GPU-1"], ["nvml:GPU-1", "nvml:GPU-2#2"]]
    assert [len(tick["c"]) for tick in node.ticks()] == [2, 2, 1, 2, 2, 2]
    for path in spool.sealed_segments(str(node.spool_dir)):
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
        assert all(set(line["c"]) <= set(lines[0]["zones"]) for line in lines if line["k"] == "tick")
        assert lines[-2]["k"] == "self"


def test_zones_that_stay_the_same_begin_no_segment(node):
    sampler = node.begin(opened=on_bench(Bench("nvml:GPU-1")))  # its tuple is another at each look
    node.run(sampler, 120)
    assert len(node.lines("header")) == 1


def test_a_header_says_how_a_counter_came_about(node):
    node.begin(opened=on_bench(Bench("nvml:GPU-1")))
    assert node.lines("header")[0]["zones"]["nvml:GPU-1"]["method"] == "integrated"


def test_a_meter_that_integrates_is_called_as_often_as_it_wants_and_ticks_stay_where_they_are(node):
    bench, quiet = Bench("nvml:GPU-1", poll_s=0.5), Bench("nvml:GPU-2")
    sampler = node.begin(opened=on_bench(bench, quiet))
    node.run(sampler, 60)
    assert 115 <= bench.polled <= 122
    assert [round(seconds(tick), 1) for tick in node.ticks()] == [0, 30, 60]
    bench.poll_s = None
    node.run(sampler, 30)
    assert bench.polled <= 123
    assert quiet.polled == 0


def test_a_start_names_the_devices_that_the_job_was_given(node):
    sampler = node.begin(opened=on_bench(Bench("nvml:GPU-0")))
    node.mark("start", 7, SLURM_JOB_GPUS="0,3")
    node.mark("start", 8)
    node.run(sampler, 1)
    assert [line["gpus"] for line in node.lines("job_start")] == [["GPU-0", "GPU-3"], []]
    again = node.begin(opened=on_bench(Bench("nvml:GPU-0")))
    node.run(again, 1)
    assert [line["gpus"] for line in node.lines("job_start")[2:]] == [["GPU-0", "GPU-3"], []]


# safe_interval_s


def zone(**known) -> Zone:
    return Zone(
        **{"key": "rapl:package-0", "domain": "package", "wrap_uj": None, "max_uw": None, "used": True, "why": ""}
        | known
    )


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ((), 30.0),
        ((zone(),), 30.0),
        ((zone(wrap_uj=262143328850),), 30.0),
        ((zone(wrap_uj=65532610987),), 30.0),  # AMD, 700 W assumed: 37.4 s
        ((zone(wrap_uj=65532610987, max_uw=1_000_000_000),), 26.213),
        ((zone(wrap_uj=65532610987, max_uw=2_000_000_000),), 13.107),
        ((zone(wrap_uj=65532610987, max_uw=2_000_000_000, used=False),), 30.0),
        ((zone(domain="dram", wrap_uj=65712999613),), 30.0),
        ((zone(domain="node", wrap_uj=65532610987),), 5.243),
        ((zone(), zone(wrap_uj=65532610987, max_uw=1_500_000_000), zone(wrap_uj=262143328850)), 17.475),
        ((zone(wrap_uj=1),), 1.0),
    ],
)  # fmt: skip
def test_no_counter_can_wrap_unseen_between_two_ticks(zones, expected):
    assert round(safe_interval_s(30.0, zones), 3) == expected


def test_a_shorter_interval_that_a_site_asks_for_is_kept():
    assert safe_interval_s(0.5, (zone(wrap_uj=1), zone(wrap_uj=65532610987))) == 0.5


def test_an_amd_node_is_read_often_enough_for_its_range(tmp_path, clock):
    node = Node(tmp_path, clock, METER_TREES / "rapl/amd-die-mirrors")
    write_tree(node.tree, {"sys/class/powercap/intel-rapl:2/constraint_0_power_limit_uw": 1_000_000_000})
    node.begin(opened=meters.open_all(node.roots, Options()))
    assert round(node.lines("header")[0]["interval_s"], 1) == 26.2
    node.close()


# Jobs


def test_a_jobs_edges_get_a_reading_each_and_stand_around_it(node):
    sampler = node.begin()
    node.run(sampler, 5)
    node.mark("start", 7, SLURM_JOB_UID="5001", SLURM_JOB_USER="alice")
    sampler.step(node.clock())
    node.run(sampler, 10)
    node.mark("end", 7, SLURM_JOB_EXIT_CODE="0")
    sampler.step(node.clock())
    [key] = keys(node)
    assert told(node) == [
        ("job_start", key),
        ("tick", "start", key),
        ("tick", "end", key),
        ("job_end", key),
    ]
    [start], [end] = node.lines("job_start"), node.lines("job_end")
    assert (seconds(start), seconds(end)) == (5, 15)
    assert (start["job"], start["uid"], start["env"]["SLURM_JOB_USER"]) == (7, 5001, "alice")
    assert (end["why"], end["env"]["SLURM_JOB_EXIT_CODE"]) == ("epilog", "0")
    node.run(sampler, 30)
    assert node.ticks()[-1]["jobs"] == {}


def test_a_runs_key_names_job_sampler_and_number(node):
    sampler = node.begin()
    for job in (7, 8):
        node.mark("start", job)
    sampler.step(node.clock())
    run_id = node.lines("header")[0]["sampler"]
    assert sorted(keys(node)) == [f"7@{run_id}-1", f"8@{run_id}-2"]


def test_a_storm_of_jobs_costs_four_readings_a_second(node, clock):
    sampler = node.begin()
    for job in range(1, 101):
        clock.go_on(0.01)
        node.mark("start", job)
        sampler.step(clock())
    node.run(sampler, 0.3)
    assert len(keys(node)) == 100
    assert len([tick for tick in node.ticks() if tick["why"] == "start"]) <= 5


def test_edges_within_a_quarter_second_share_a_reading_and_keep_their_own_times(node, clock):
    sampler = node.begin()
    node.mark("start", 1)
    sampler.step(clock())
    clock.go_on(0.1)
    node.mark("start", 2)
    sampler.step(clock())
    clock.go_on(0.1)
    node.mark("start", 3)
    sampler.step(clock())
    node.run(sampler, 0.1)
    assert [round(seconds(line), 1) for line in node.lines("job_start")] == [0.0, 0.1, 0.2]
    assert [(round(seconds(t), 2), len(t["jobs"])) for t in node.ticks() if t["why"] == "start"] == [
        (0.0, 1),
        (0.25, 3),
    ]


def test_a_mark_whose_poke_was_lost_is_found_by_the_next_tick(node):
    sampler = node.begin()
    node.run(sampler, 5)
    node.mark("start", 7)
    node.run(sampler, 30)
    [start] = node.lines("job_start")
    assert seconds(start) == 5


def test_a_start_and_an_end_that_come_together_get_a_reading_each(node, clock):
    sampler = node.begin()
    clock.go_on(1)
    node.mark("start", 7)
    clock.go_on(0.05)
    node.mark("end", 7)
    sampler.step(clock.go_on(0.05))
    node.run(sampler, 1)
    [key] = keys(node)
    assert told(node) == [("job_start", key), ("tick", "start", key), ("tick", "end", key), ("job_end", key)]
    assert [round(seconds(line), 2) for line in (*node.lines("job_start"), *node.lines("job_end"))] == [1.0, 1.05]


def test_a_requeued_job_is_two_runs(node, clock):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 60)
    node.mark("end", 7)
    clock.go_on(0.1)
    node.mark("start", 7)
    node.run(sampler, 30)
    first, second = keys(node)
    assert first != second
    assert keys(node, "job_end") == [first]
    assert list(node.ticks()[-1]["jobs"]) == [second]
    node.mark("end", 7)
    node.run(sampler, 30)
    assert keys(node, "job_end") == [first, second]


def test_a_requeue_that_a_busy_sampler_finds_all_at_once_is_two_runs(node, clock):
    sampler = node.begin()
    for edge in ("start", "end", "start", "end"):
        clock.go_on(2)
        node.mark(edge, 7)
    node.run(sampler, 30)
    times = {run: [] for run in keys(node)}
    for line in (*node.lines("job_start"), *node.lines("job_end")):
        times[line["run"]].append(seconds(line))
    assert list(times.values()) == [[2, 4], [6, 8]]


def test_three_marks_at_once_end_the_earlier_run_and_not_the_later(node, clock):
    sampler = node.begin()
    for edge in ("start", "end", "start"):
        clock.go_on(2)
        node.mark(edge, 7)
    node.run(sampler, 60)
    first, second = keys(node)
    assert keys(node, "job_end") == [first]
    assert list(node.ticks()[-1]["jobs"]) == [second]


def test_an_epilog_that_comes_twice_changes_nothing(node, clock):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 10)
    node.mark("end", 7)
    node.run(sampler, 2)
    before = node.lines()
    node.mark("end", 7)
    sampler.step(clock())
    assert node.lines() == before
    assert list((node.run_dir / "marks").iterdir()) == []


def test_an_epilog_long_after_the_last_is_evidence_of_a_run_without_a_prolog(node, clock):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 10)
    node.mark("end", 7)
    node.run(sampler, 20)
    node.mark("end", 7)
    sampler.step(clock())
    first, second = keys(node, "job_end")
    assert keys(node) == [first] != [second]


def test_two_epilogs_at_once_end_a_run_once(node, clock):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 10)
    for _ in range(2):
        node.mark("end", 7)
        clock.go_on(0.01)
    node.run(sampler, 10)
    assert len(node.lines("job_end")) == 1
    assert list((node.run_dir / "marks").iterdir()) == []


def test_a_late_second_epilog_does_not_end_the_requeued_run(node, clock):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 10)
    node.mark("end", 7)
    late = node.mark("end", 7).read_bytes()
    (node.run_dir / "marks" / "end.7.1003").unlink()
    ended = clock()
    node.run(sampler, 10)
    node.mark("start", 7)
    node.run(sampler, 10)
    path = node.raw_mark("end.7.1003", late)
    os.utime(path, ns=(ended.wall_ns, ended.wall_ns))
    node.run(sampler, 30)
    assert len(node.lines("job_end")) == 1
    assert list(node.ticks()[-1]["jobs"]) == [keys(node)[1]]


def test_an_epilog_without_a_prolog_is_recorded_with_its_job(node):
    sampler = node.begin()
    node.mark("end", 7, SLURM_JOB_UID="5001")
    node.run(sampler, 1)
    [end] = node.lines("job_end")
    assert (end["job"], end["uid"], node.lines("job_start")) == (7, 5001, [])
    assert told(node) == [("tick", "end"), ("job_end", end["run"])]


def test_a_jobs_use_is_in_the_ticks_and_its_last_value_in_the_end(node):
    sampler = node.begin()
    cgroup = node.tree / JOB_CGROUP.format(7)
    node.mark("start", 7)
    node.run(sampler, 1)
    write_tree(cgroup, {"cpu.stat": "usage_usec 1000000", "memory.current": 4096, "memory.max": "max"})
    node.run(sampler, 30)
    [key] = keys(node)
    assert node.ticks()[-1]["jobs"] == {key: {"cpu": 1000000, "mem": 4096}}
    write_tree(cgroup, {"cpu.stat": "usage_usec 9000000"})
    node.mark("end", 7)
    sampler.step(node.clock())
    assert node.ticks()[-1]["jobs"] == {key: {"cpu": 9000000, "mem": 4096}}


def test_every_reading_says_what_the_jobs_had_used_at_that_moment(node, clock):
    sampler = node.begin()
    cgroup = begin_job(node, sampler)
    node.run(sampler, 600)  # an old job is looked at every 10 s only
    sampler.step(clock.go_on(0.1))
    write_tree(cgroup, {"cpu.stat": "usage_usec 2000000"})
    node.mark("start", 8)
    sampler.step(clock.go_on(0.5))
    assert node.ticks()[-1]["jobs"][keys(node)[0]]["cpu"] == 2_000_000


def test_a_restarted_sampler_goes_on_with_the_same_run(node, clock):
    first = node.begin()
    node.mark("start", 7, SLURM_JOB_USER="alice")
    node.run(first, 10)
    [key] = keys(node)
    first.close()  # killed: no last reading, no seal
    del first.evidence
    clock.go_on(5)
    node.mark("start", 8)
    clock.go_on(5)
    second = node.begin()
    node.run(second, 10)
    node.mark("end", 7)
    node.run(second, 10)
    starts = [line for line in node.lines("job_start") if line["job"] == 7]
    assert [(line["run"], line.get("resumed"), seconds(line)) for line in starts] == [(key, None, 0), (key, True, 0)]
    assert keys(node, "job_end") == [key]
    [ticks_of_second] = [[line for line in node.ticks() if seconds(line) >= 20]]
    assert all(key in tick["jobs"] for tick in ticks_of_second if seconds(tick) < 30)
    assert len({line["sampler"] for line in node.lines("header")}) == 2


def test_a_job_that_ended_while_no_sampler_ran_ends_when_it_did(node, clock):
    first = node.begin()
    node.mark("start", 7)
    node.run(first, 10)
    first.end(clock())
    clock.go_on(20)
    node.mark("end", 7)
    clock.go_on(1000)
    second = node.begin()
    node.run(second, 1)
    [end] = node.lines("job_end")
    assert (end["run"], seconds(end)) == (keys(node)[0], 30)


def test_a_restarted_sampler_of_another_boot_goes_on_with_nothing(node, clock):
    first = node.begin()
    node.mark("start", 7)
    node.run(first, 10)
    first.end(clock())
    clock.go_on(300)
    clock.boot_ns = 30 * SECOND
    (node.tree / "proc/sys/kernel/random/boot_id").write_text("11111111-6f0e-4a0c-9d7e-1b7f9c2d4e10\n")
    second = node.begin()
    node.run(second, 10)
    assert len(node.lines("job_start")) == 1
    assert list((node.run_dir / "jobs").iterdir()) == []


def test_whatever_is_done_to_the_run_directory_the_ticks_go_on(node):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 10)
    for folder in ("marks", "jobs"):
        for path in (node.run_dir / folder).iterdir():
            path.unlink()
        (node.run_dir / folder).rmdir()
    node.run(sampler, 60)
    assert len([tick for tick in node.ticks() if tick["why"] == "clock"]) == 3


# Ends without an epilog


def begin_job(node: Node, sampler, job: int = 7, step: str | None = "step_extern", **env: str) -> Path:
    """A job that has used some CPU time, with its cgroup."""
    cgroup = node.tree / JOB_CGROUP.format(job)
    node.mark("start", job, **env)
    node.run(sampler, 1)
    write_tree(cgroup, {"cpu.stat": "usage_usec 1000000", "cgroup.events": "populated 1"})
    if step:
        (cgroup / step).mkdir()
    node.run(sampler, 20)
    return cgroup


def take_away(cgroup: Path, sampler) -> None:
    """As the kernel does it: what was open answers no more."""
    for run in sampler.runs.alive.values():
        if run.path == str(cgroup):
            run._usage.close()
            run._usage._files = {}
    cgroup.rename(cgroup.parents[2] / f"gone-{cgroup.name}")


def test_a_run_whose_cgroup_is_gone_ends_when_it_was_last_seen(node):
    sampler = node.begin()
    cgroup = begin_job(node, sampler)
    take_away(cgroup, sampler)
    node.run(sampler, 55)
    assert node.lines("job_end") == []
    node.run(sampler, 20)
    [end] = node.lines("job_end")
    assert (end["run"], end["why"], end["env"], end["job"]) == (keys(node)[0], "cgroup gone", {}, 7)
    assert 20 <= seconds(end) <= 21
    node.run(sampler, 30)
    assert node.ticks()[-1]["jobs"] == {}
    assert list((node.run_dir / "jobs").iterdir()) == []


def test_an_epilog_that_comes_after_that_changes_nothing(node):
    sampler = node.begin()
    take_away(begin_job(node, sampler), sampler)
    node.run(sampler, 80)
    node.mark("end", 7)
    node.run(sampler, 30)
    assert [line["why"] for line in node.lines("job_end")] == ["cgroup gone"]
    assert list((node.run_dir / "marks").iterdir()) == []
    node.mark("start", 7)
    node.run(sampler, 10)
    node.mark("end", 7)
    node.run(sampler, 10)
    assert [line["why"] for line in node.lines("job_end")] == ["cgroup gone", "epilog"], "a requeued run is another"


def test_a_cgroup_that_a_lost_node_left_empty_is_gone(node):
    sampler = node.begin()
    cgroup = begin_job(node, sampler)
    write_tree(cgroup, {"cgroup.events": "populated 0"})
    node.run(sampler, 75)
    [end] = node.lines("job_end")
    assert end["why"] == "cgroup gone"
    assert 20 <= seconds(end) <= 23


def test_a_job_that_sleeps_is_not_gone(node):
    sampler = node.begin()
    begin_job(node, sampler)
    node.run(sampler, 3600)
    assert node.lines("job_end") == []


def test_an_epilog_in_time_ends_a_run_whose_cgroup_is_gone(node):
    sampler = node.begin()
    take_away(begin_job(node, sampler), sampler)
    node.run(sampler, 40)
    node.mark("end", 7)
    node.run(sampler, 100)
    assert [line["why"] for line in node.lines("job_end")] == ["epilog"]


def test_a_job_without_a_cgroup_at_all_ends_with_its_epilog_only(node):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 3600)
    assert node.lines("job_end") == []


def test_a_job_that_is_between_two_steps_has_not_ended(node):
    """Without Contain an allocation has no cgroup until its next step."""
    sampler = node.begin()
    take_away(begin_job(node, sampler, step="step_0"), sampler)
    node.run(sampler, 3600)
    assert node.lines("job_end") == []
    assert list(node.ticks()[-1]["jobs"]) == keys(node)


def test_a_job_between_two_steps_has_ended_when_its_time_is_over(node):
    sampler = node.begin()
    limit = TEN_O_CLOCK // SECOND + 600
    take_away(begin_job(node, sampler, step="step_0", SLURM_JOB_END_TIME=str(limit)), sampler)
    node.run(sampler, 600)
    assert node.lines("job_end") == []
    node.run(sampler, 100)
    assert [line["why"] for line in node.lines("job_end")] == ["cgroup gone"]


def test_a_restarted_sampler_ends_what_was_lost_while_none_ran(node, clock):
    first = node.begin()
    cgroup = begin_job(node, first)
    node.run(first, 60)
    take_away(cgroup, first)
    first.close()
    clock.go_on(300)
    second = node.begin()
    node.run(second, 1)
    [end] = node.lines("job_end")
    assert end["why"] == "cgroup gone"
    assert 55 <= seconds(end) <= 81, "the last reading is what the next sampler knows of"


def test_a_node_that_woke_from_a_suspend_has_lost_nobody(node, clock):
    sampler = node.begin()
    begin_job(node, sampler)
    clock.go_on(3600)
    sampler.step(clock())
    node.run(sampler, 60)
    assert node.lines("job_end") == []


def test_what_a_boot_took_along_ends_on_that_boots_clock_and_in_its_name(node, clock):
    first = node.begin()
    node.mark("start", 7)
    node.run(first, 100)
    first.close()
    clock.go_on(300)
    clock.boot_ns = 30 * SECOND
    (node.tree / "proc/sys/kernel/random/boot_id").write_text("11111111-6f0e-4a0c-9d7e-1b7f9c2d4e10\n")
    second = node.begin()
    node.run(second, 10)
    [end] = node.lines("job_end")
    last = [tick for tick in node.ticks() if tick["bt"] > 86_400 * SECOND][-1]
    assert (end["run"], end["why"], end["bt"]) == (keys(node)[0], "node booted", last["bt"])
    [path] = [path for path in spool.sealed_segments(str(node.spool_dir)) if "job_end" in Path(path).read_text()]
    segment = spool.read_segment(path)
    assert (segment.intact, segment.header["boot"][:8], segment.header["zones"]) == (True, "2f0c6a52", {})


@pytest.mark.parametrize("state", ["", "[]", "{", '{"runs": 5, "tails": []}', '{"runs": {"7": 1}}', '{"boot": 1}'])
def test_a_state_that_somebody_else_wrote_does_no_harm(node, state):
    first = node.begin()
    begin_job(node, first)
    first.close()
    (node.run_dir / "state").write_text(state)
    second = node.begin()
    node.run(second, 60)
    assert node.ticks()[-1]["jobs"][keys(node)[0]]["cpu"] == 1_000_000


# Itself


def test_each_segment_says_what_the_sampler_cost_and_how_well_it_kept_time(node, clock):
    sampler = node.begin()
    node.counter("intel-rapl:1", "garbage")
    node.run(sampler, 29)
    clock.go_on(1.25)
    sampler.step(clock())
    node.run(sampler, 700)
    reports = node.lines("self")
    assert len(reports) == 2
    first, second = reports
    assert (first["ticks"], first["read_errors"]) == (12, 11)
    assert first["late_ms_max"] == 250
    assert second["late_ms_max"] < 3
    assert first["rss_bytes"] > 1 << 20
    assert second["cpu_us"] > first["cpu_us"] > 0


# Sealing


def test_segments_are_sealed_every_few_minutes_and_chained(node):
    sampler = node.begin()
    node.run(sampler, 3600)
    sampler.end(node.clock())
    segments = [spool.read_segment(path) for path in spool.sealed_segments(str(node.spool_dir))]
    assert 10 <= len(segments) <= 13
    assert all(segment.intact for segment in segments)
    assert [segment.header["prev"] for segment in segments[1:]] == [
        f"sha256:{segment.sha256}" for segment in segments[:-1]
    ]
    assert len(node.ticks()) == 122
    assert node.ticks()[-1]["why"] == "stop"


def test_a_job_that_ended_is_soon_in_a_sealed_segment(node):
    sampler = node.begin()
    node.mark("start", 7)
    node.run(sampler, 100)
    node.mark("end", 7)
    sampler.step(node.clock())
    [path] = spool.sealed_segments(str(node.spool_dir))
    assert [json.loads(line)["k"] for line in Path(path).read_text().splitlines()][-3:] == [
        "job_end", "self", "trailer",
    ]  # fmt: skip


def test_a_storm_of_jobs_seals_once_a_minute(node):
    sampler = node.begin()
    for job in range(1, 301):
        node.mark("start", job)
        node.run(sampler, 0.5)
        node.mark("end", job)
        node.run(sampler, 0.5)
    assert len(list(spool.sealed_segments(str(node.spool_dir)))) == 4
    assert len(keys(node, "job_end")) == 300


def test_what_was_written_is_on_the_disk_within_a_minute(node, monkeypatch):
    flushed = []
    sampler = node.begin(seal_s=3600)
    monkeypatch.setattr(sampler.evidence, "flush", lambda: flushed.append(node.clock.boot_ns / SECOND))
    node.run(sampler, 600)
    assert max(later - earlier for earlier, later in pairwise(flushed)) < 60.1


def test_nodes_do_not_seal_in_step(tmp_path, clock):
    node = Node(tmp_path, clock)
    sampler = node.sampler()
    spreads = set()
    for number in range(20):
        sampler.settings = sampler.settings._replace(node=f"n{number}")
        spreads.add(sampler._spread_ns(300 * SECOND) // SECOND)
    assert len(spreads) > 10
    assert max(spreads) <= 30
    node.close()


def test_the_end_takes_in_the_last_marks_reads_once_more_and_seals(node):
    sampler = node.begin()
    node.mark("start", 7)
    sampler.end(node.clock())
    assert [line["k"] for line in node.lines()] == [
        "header", "tick", "job_start", "tick", "tick", "self", "trailer",
    ]  # fmt: skip
    assert list(node.segments.glob("*.part")) == []
