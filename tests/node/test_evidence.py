"""What becomes of the evidence when the disk does not take it."""

import errno
import os
from itertools import pairwise

import pytest
from node_tree import BOOT_ID, SECOND, read_lines

from eco2ai_hpc import spool
from eco2ai_hpc.sampler import backlog
from eco2ai_hpc.sampler.evidence import Evidence

HEADER = {
    "k": "header", "v": 1, "cluster": "lab", "node": "n1", "boot": BOOT_ID, "sampler": "9f3a01c2", "interval_s": 30.0,
    "zones": {
        "rapl:package-0": {"domain": "package", "wrap": 65532610987, "max_uw": 280000000, "used": True, "why": ""},
    },
}  # fmt: skip


@pytest.fixture
def small_memory(monkeypatch):
    """Room for about twelve ticks in memory."""
    monkeypatch.setattr(backlog, "WAITING_BYTES", 8192)


def edge(kind: str, job: int) -> dict:
    return {"k": kind, "run": f"{job}@9f3a01c2-1", "job": job}


def tick(number: int, boot_ns: int = 0, zone: str = "rapl:package-0") -> dict:
    return {"k": "tick", "bt": boot_ns, "number": number, "c": {zone: number}, "ballast": "x" * 200}


def said(directory) -> list[object]:
    """What the lines between headers and trailers say, in their order."""
    names = {"tick": "number", "job_start": "job", "job_end": "job", "gap": "reason", "self": "ticks"}
    return [line[names[line["k"]]] for line in read_lines(directory) if line["k"] in names]


def test_nothing_is_written_before_the_first_line(tmp_path, clock):
    evidence = Evidence(str(tmp_path / "n1"), HEADER)
    evidence.seal()
    evidence.flush()
    assert not (tmp_path / "n1").exists()
    evidence.tick(tick(1), clock())
    assert evidence.lines == 2


def test_each_segment_names_the_digest_of_the_one_before(tmp_path, clock):
    evidence = Evidence(str(tmp_path), HEADER)
    for number in range(3):
        evidence.tick(tick(number), clock.go_on(30))
        evidence.seal()
    segments = [spool.read_segment(path) for path in spool.sealed_segments(str(tmp_path))]
    assert all(segment.intact for segment in segments)
    assert [segment.header["seq"] for segment in segments] == [0, 1, 2]
    previous = [None, *(f"sha256:{segment.sha256}" for segment in segments)]
    assert [segment.header["prev"] for segment in segments] == previous[:3]
    assert [segment.header["bt"] for segment in segments] == [clock.boot_ns - wait * SECOND for wait in (60, 30, 0)]


def test_a_full_disk_delays_lines_and_loses_none(disk, clock):
    directory = disk.path / "lab" / "n1"
    evidence = Evidence(str(directory), HEADER)
    evidence.tick(tick(0, clock.boot_ns), clock())
    disk.fill()
    number = 0
    while not evidence.last_error:
        number += 1
        evidence.tick(tick(number, clock.go_on(30).boot_ns), clock())
    full_since_ns = clock.boot_ns
    evidence.edge(edge("job_start", 7) | {"ballast": "x" * 300}, clock.go_on(1))
    evidence.tick(tick(-1, clock.go_on(30).boot_ns), clock())
    evidence.edge(edge("job_end", 7) | {"ballast": "x" * 300}, clock.go_on(1))
    evidence.tick(tick(-2, clock.go_on(30).boot_ns), clock())
    [part] = directory.glob("*.part")
    assert part.read_bytes().endswith(b"\n"), "no half line stays"
    assert os.strerror(errno.ENOSPC) in evidence.last_error
    disk.free()
    evidence.tick(tick(1000, clock.go_on(30).boot_ns), clock())
    evidence.seal()
    assert said(directory) == [*range(number), 7, 7, number, -1, -2, 1000, os.strerror(errno.ENOSPC)]
    [gap] = [line for line in read_lines(directory) if line["k"] == "gap"]
    assert (gap["since_bt"], gap["bt"]) == (full_since_ns, clock.boot_ns)
    [path] = spool.sealed_segments(str(directory))
    assert spool.read_segment(path).intact


def test_a_disk_that_is_full_from_the_start_delays_lines_and_loses_none(disk, clock):
    disk.fill()
    evidence = Evidence(str(disk.path / "n1"), HEADER)
    evidence.tick(tick(0), clock())
    evidence.edge(edge("job_start", 7), clock.go_on(1))
    evidence.seal()
    disk.free()
    evidence.tick(tick(1), clock.go_on(30))
    assert said(disk.path / "n1") == [7, 0, 1, os.strerror(errno.ENOSPC)]
    assert read_lines(disk.path / "n1")[0]["seq"] == 0


def test_of_a_long_hole_only_the_readings_stay_that_the_energy_needs(disk, clock, small_memory):
    disk.fill()
    evidence = Evidence(str(disk.path / "n1"), HEADER)
    for number in range(121):
        evidence.tick(tick(number, clock.go_on(30).boot_ns), clock())
    disk.free()
    evidence.tick(tick(121, clock.go_on(30).boot_ns), clock())
    kept = [one for one in said(disk.path / "n1") if isinstance(one, int)]
    # 0.75 x 65.5 kJ / 280 W is 175 s: five intervals of 30 s. The bound holds about twelve of them.
    assert kept[-1] == 121
    assert 8 <= len(kept) <= 14
    thinned = [after - before for before, after in pairwise(kept)]
    assert max(thinned) == 5


def test_a_note_is_dropped_where_there_is_no_room(disk, clock):
    evidence = Evidence(str(disk.path / "n1"), HEADER)
    evidence.note({"k": "self", "ticks": 1}, clock())
    disk.fill()
    while not evidence.last_error:
        evidence.tick(tick(0), clock.go_on(30))
    evidence.note({"k": "self", "ticks": 2}, clock())
    disk.free()
    evidence.note({"k": "self", "ticks": 3}, clock())
    notes = [line["ticks"] for line in read_lines(disk.path / "n1") if line["k"] == "self"]
    assert notes == [1, 3]


def test_zones_that_change_begin_a_segment_of_their_own(tmp_path, clock):
    evidence = Evidence(str(tmp_path), HEADER)
    evidence.tick(tick(0), clock())
    more = HEADER | {"zones": {"nvml:GPU-1": {"domain": "gpu", "wrap": None, "max_uw": None, "used": True, "why": ""}}}
    evidence.describe(more)
    evidence.tick(tick(1, zone="nvml:GPU-1"), clock.go_on(30))
    evidence.seal()
    segments = [spool.read_segment(path) for path in spool.sealed_segments(str(tmp_path))]
    assert [list(segment.header["zones"]) for segment in segments] == [["rapl:package-0"], ["nvml:GPU-1"]]
    assert segments[1].header["prev"] == f"sha256:{segments[0].sha256}"


def test_a_reading_that_waited_goes_under_the_header_of_its_zones(disk, clock):
    disk.fill()
    evidence = Evidence(str(disk.path / "n1"), HEADER)
    evidence.tick(tick(0), clock())
    evidence.describe(HEADER | {"zones": {}})
    evidence.tick(tick(1), clock.go_on(30))
    disk.free()
    evidence.tick(tick(2), clock.go_on(30))
    evidence.seal()
    first, second = spool.sealed_segments(str(disk.path))
    assert spool.read_segment(first).header["zones"] == HEADER["zones"]
    assert spool.read_segment(second).header["zones"] == {}
    assert [line.get("number") for line in read_lines(disk.path / "n1") if line["k"] == "tick"] == [0, 1, 2]


def test_every_hole_is_told(disk, clock):
    evidence = Evidence(str(disk.path / "n1"), HEADER)
    holes = []
    for _ in range(2):
        disk.fill()
        evidence._series.last_error = ""
        while not evidence.last_error:
            evidence.tick(tick(0, clock.go_on(30).boot_ns), clock())
        began_ns = clock.boot_ns
        for _ in range(10):
            evidence.tick(tick(0, clock.go_on(30).boot_ns), clock())
        disk.free()
        evidence.tick(tick(1, clock.go_on(30).boot_ns), clock())
        holes.append((began_ns, clock.boot_ns))
    gaps = [line for line in read_lines(disk.path / "n1") if line["k"] == "gap"]
    assert [(gap["since_bt"], gap["bt"]) for gap in gaps] == holes


def test_a_spool_that_went_away_and_came_back_is_gone_on_with(tmp_path, clock):
    directory = tmp_path / "spool"
    directory.write_text("not a directory")
    evidence = Evidence(str(directory / "lab" / "n1"), HEADER)
    evidence.edge(edge("job_start", 7), clock())
    evidence.tick(tick(0), clock())
    assert os.strerror(errno.ENOTDIR) in evidence.last_error or os.strerror(errno.EEXIST) in evidence.last_error
    directory.unlink()
    evidence.tick(tick(1), clock.go_on(30))
    assert said(directory / "lab" / "n1")[:3] == [7, 0, 1]


def test_a_segment_that_cannot_be_sealed_is_gone_on_with(tmp_path, clock, monkeypatch):
    def fails(*_arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    evidence = Evidence(str(tmp_path), HEADER)
    evidence.tick(tick(0), clock())
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fails)
        evidence.seal()
    assert "Read-only file system: cannot seal" in evidence.last_error
    evidence.tick(tick(1), clock())
    evidence.seal()
    [path] = spool.sealed_segments(str(tmp_path))
    assert spool.read_segment(path).intact
    assert said(tmp_path) == [0, 1]


def test_edges_wait_in_memory_up_to_a_bound(tmp_path, clock):
    (tmp_path / "spool").write_text("")
    evidence = Evidence(str(tmp_path / "spool/lab/n1"), HEADER)
    for job in range(10_050):
        evidence._backlog.add(backlog.entry(edge("job_start", job), HEADER))
    evidence.tick(tick(0), clock())
    (tmp_path / "spool").unlink()
    evidence.tick(tick(1), clock())
    jobs = [line["job"] for line in read_lines(tmp_path / "spool/lab/n1") if line["k"] == "job_start"]
    assert (len(jobs), jobs[-1]) == (10_000, 10_049)


def test_an_orphan_that_could_not_be_sealed_is_tried_again_later(disk, clock):
    directory = disk.path / "n1"
    directory.mkdir()
    content = spool.encode(HEADER | {"seq": 0, "sampler": "0a0a0a0a"})
    content += b" " * (4096 - len(content) - 20)
    part = directory / (spool.segment_name(BOOT_ID, "0a0a0a0a", 0) + ".part")
    part.write_bytes(content)
    disk.fill()
    evidence = Evidence(str(directory), HEADER)
    assert evidence.recover() == []
    assert part.read_bytes() == content
    disk.free()
    evidence.tick(tick(0), clock())
    assert part.exists()
    evidence.seal()
    assert not part.exists()
    assert len(list(spool.sealed_segments(str(directory)))) == 2


def test_a_flush_that_fails_is_remembered_and_raises_nothing(tmp_path, clock, monkeypatch):
    def fails(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    evidence = Evidence(str(tmp_path), HEADER)
    evidence.tick(tick(0), clock())
    monkeypatch.setattr(os, "fdatasync", fails)
    evidence.flush()
    assert "Input/output error" in evidence.last_error
