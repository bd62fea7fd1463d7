"""The file format: what was written is read again, and what was lost is known."""

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_tree import BOOT_ID

from eco2ai_hpc import spool
from eco2ai_hpc.errors import SpoolError

TICK = {
    "k": "tick",
    "t": "2026-11-23T10:00:30.000000Z",
    "bt": 86430000000000,
    "why": "clock",
    "c": {"rapl:package-0": 7},
}


def header(seq: int = 0, **other) -> dict:
    zones = {"rapl:package-0": {"domain": "package", "wrap": 262143328850, "max_uw": None, "used": True, "why": "once"}}
    known = {"k": "header", "v": 1, "cluster": "lab", "node": "n1", "boot": BOOT_ID, "sampler": "9f3a01c2", "seq": seq}
    return known | {"zones": zones} | other


def sealed(directory: Path, lines=(), **other) -> Path:
    writer = spool.SegmentWriter(str(directory), header(**other))
    for line in lines:
        writer.append(line)
    writer.seal()
    return Path(writer.final_path)


def orphan(directory: Path, content: bytes, seq: int = 0) -> Path:
    """A segment whose writer was killed."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (spool.segment_name(BOOT_ID, "9f3a01c2", seq) + ".part")
    path.write_bytes(content)
    return path


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
flat = st.dictionaries(st.text(max_size=8), values, max_size=4)
lines = st.lists(st.dictionaries(st.text(max_size=8), values | flat, max_size=4), max_size=5)


@settings(max_examples=50, deadline=None)
@given(lines)
def test_what_was_written_is_read_again(tmp_path_factory, lines):
    path = sealed(tmp_path_factory.mktemp("spool"), lines)
    segment = spool.read_segment(str(path))
    assert segment.intact
    assert segment.header == header()
    assert segment.lines == len(lines) + 1
    assert json_lines(path)[1:-1] == lines
    assert path.read_bytes().count(b"\n") == len(lines) + 2, "no text can break a line"


def test_each_line_is_in_the_file_once_append_returns(tmp_path):
    writer = spool.SegmentWriter(str(tmp_path), header())
    writer.append(TICK)
    assert json_lines(Path(writer.final_path + ".part")) == [header(), TICK]


def test_the_trailer_holds_count_and_digest_of_every_byte_before_it(tmp_path):
    path = sealed(tmp_path, [TICK, TICK])
    body = path.read_bytes().rsplit(b"\n", 2)[0] + b"\n"
    trailer = json_lines(path)[-1]
    expected = subprocess.run(["sha256sum"], input=body, capture_output=True, check=True).stdout.split()[0].decode()
    assert trailer == {"k": "trailer", "lines": 3, "sha256": expected, "recovered": False}


@pytest.mark.parametrize("place", range(0, 700, 23))
def test_a_bit_that_changed_is_noticed(tmp_path, place):
    path = sealed(tmp_path, [TICK, TICK])
    content = bytearray(path.read_bytes())
    place = place % content.rindex(b'{"k":"trailer"')
    content[place] ^= 1
    path.write_bytes(content)
    try:
        assert not spool.read_segment(str(path)).intact
    except SpoolError as error:
        assert f"{path}:1: " in str(error)


def test_a_line_taken_out_is_noticed(tmp_path):
    path = sealed(tmp_path, [TICK, TICK])
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:1] + whole[2:]))
    segment = spool.read_segment(str(path))
    assert (segment.intact, segment.lines, segment.seal.lines) == (False, 2, 3)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.99])
def test_a_partial_copy_is_refused_and_says_what_helps(tmp_path, share):
    path = sealed(tmp_path, [TICK] * 5)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SpoolError, match=r"last line: expected a trailer") as caught:
        spool.read_segment(str(path))
    assert str(path) in str(caught.value)
    assert "once the whole file is there" in caught.value.hint


@pytest.mark.parametrize("version", [2, 99, 0, -1, "1", True, None])
def test_another_version_is_refused_with_file_and_line(tmp_path, version):
    path = tmp_path / spool.segment_name(BOOT_ID, "9f3a01c2", 0)
    body = spool.encode({"k": "header", "v": version, "everything": "else differs"})
    path.write_bytes(body + spool.encode({"k": "trailer", "lines": 1, "sha256": "0", "recovered": False}))
    with pytest.raises(SpoolError) as caught:
        spool.read_segment(str(path))
    assert f"{path}:1: has format version {version!r}, expected 1 to 1" in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        {"cluster": None}, {"node": 7}, {"seq": "0"}, {"zones": []}, {"boot": True}, {"interval_s": "thirty"},
        {"mem_mib": "many"}, {"seq": 1 << 70}, {"bt": float("inf")}, {"zones": {"rapl:package-0": None}},
        {"zones": {"rapl:package-0": {"domain": "package"}}},
        {"zones": {"rapl:package-0": {"domain": "package", "used": True, "wrap": "262 kJ"}}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_header_that_nobody_can_use_is_refused_with_file_and_line(tmp_path, other):
    path = tmp_path / spool.segment_name(BOOT_ID, "9f3a01c2", 0)
    path.write_bytes(spool.encode(header() | other) + spool.encode(spool.trailer(spool.Seal(1, "0", False))))
    with pytest.raises(SpoolError, match=r":1: .*(missing or has the wrong type)"):
        spool.read_segment(str(path))


@pytest.mark.parametrize("other", [{"prev": None, "mem_mib": None}, {"interval_s": 0.5}, {"added": {"in": 2027}}])
def test_what_is_unknown_or_was_added_later_does_no_harm(tmp_path, other):
    assert spool.read_segment(str(sealed(tmp_path, **other))).header == header(**other)


@pytest.mark.parametrize(
    "line", [b"", b"7", b"[]", b"null", b'"trailer"', b'{"k":"trailer","lines":1e999}', b"\xff", b"{"]
)
def test_what_is_no_trailer_is_none(line):
    assert spool.parse_trailer(line) is None


# Recovery


def test_a_last_line_torn_at_any_byte_leaves_exactly_the_whole_lines_intact(tmp_path):
    whole = spool.encode(header()) + spool.encode(TICK)
    last = spool.encode(TICK | {"why": "stop"})
    for torn_at in range(len(last) + 1):
        directory = tmp_path / str(torn_at)
        part = orphan(directory, whole + last[:torn_at])
        [path] = spool.recover(str(directory)).sealed
        segment = spool.read_segment(path)
        assert segment.intact
        assert segment.seal.recovered
        body = Path(path).read_bytes()[: -len(spool.encode(spool.trailer(segment.seal)))]
        assert body == whole + (last[:torn_at].removesuffix(b"\n") + b"\n" if torn_at else b"")
        assert not part.exists()


def test_an_orphan_without_a_whole_line_is_removed(tmp_path):
    for torn_at in (0, 1, 50):
        part = orphan(tmp_path, spool.encode(header())[:torn_at], seq=torn_at)
        assert spool.recover(str(tmp_path)) == ([], [])
        assert not part.exists()


def test_an_orphan_killed_between_trailer_and_rename_keeps_its_seal(tmp_path):
    path = sealed(tmp_path, [TICK])
    content = path.read_bytes()
    path.rename(f"{path}.part")
    assert spool.recover(str(tmp_path)).sealed == [str(path)]
    assert path.read_bytes() == content
    assert not spool.read_segment(str(path)).seal.recovered


@pytest.mark.parametrize("cut", [1, 2, 40, 100])
def test_an_orphan_killed_at_its_trailer_is_sealed_anew(tmp_path, cut):
    path = sealed(tmp_path, [TICK])
    content = path.read_bytes()
    path.unlink()
    orphan(tmp_path, content[:-cut])
    [found] = spool.recover(str(tmp_path)).sealed
    segment = spool.read_segment(found)
    assert segment.intact
    assert segment.seal.recovered
    assert Path(found).read_bytes().startswith(content[:-cut])


def test_the_segment_of_a_living_writer_is_not_touched(tmp_path):
    writer = spool.SegmentWriter(str(tmp_path), header())
    writer.append(TICK)
    assert spool.recover(str(tmp_path)) == ([], [])
    code = "import sys; from eco2ai_hpc import spool; print(*spool.recover(sys.argv[1]).sealed)"
    seen = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert seen.stdout == "\n"
    writer.append(TICK)
    writer.seal()
    assert spool.read_segment(writer.final_path).lines == 3


def test_recovery_touches_nothing_else(tmp_path):
    others = ["notes.part", "0f0f0f0f-9f3a01c2-000001.ndjson", "0f0f0f0f-9f3a01c2-1.ndjson.part", "lost+found"]
    for name in others:
        (tmp_path / name).write_text("mine")
    assert spool.recover(str(tmp_path)) == ([], [])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(others, "mine")


def test_recovery_of_a_spool_that_is_not_there_yet_finds_nothing(tmp_path):
    assert spool.recover(str(tmp_path / "missing")) == ([], [])


def test_recovery_follows_no_link_and_goes_on_with_the_others(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"not ours\n")
    directory = tmp_path / "spool"
    link = orphan(directory, b"", seq=1)
    link.unlink()
    link.symlink_to(victim)
    (directory / (spool.segment_name(BOOT_ID, "9f3a01c2", 2) + ".part")).mkdir()
    orphan(directory, spool.encode(header(3)), seq=3)
    done = spool.recover(str(directory))
    assert [Path(path).name for path in done.sealed] == [spool.segment_name(BOOT_ID, "9f3a01c2", 3)]
    assert len(done.failed) == 2
    assert victim.read_bytes() == b"not ours\n"


def test_recovery_is_repeated_without_harm(tmp_path):
    orphan(tmp_path, spool.encode(header()) + b'{"k":"ti')
    [path] = spool.recover(str(tmp_path)).sealed
    content = Path(path).read_bytes()
    assert spool.recover(str(tmp_path)) == ([], [])
    assert Path(path).read_bytes() == content


def test_an_orphan_that_cannot_be_sealed_on_a_full_disk_stays_as_it_was(disk):
    content = spool.encode(header()) + spool.encode(TICK)
    content += b" " * (4096 - len(content) - 20)  # the trailer does not fit into the file's last page
    part = orphan(disk.path, content)
    disk.fill()
    done = spool.recover(str(disk.path))
    assert (done.sealed, len(done.failed)) == ([], 1)
    assert part.read_bytes() == content
    disk.free()
    [path] = spool.recover(str(disk.path)).sealed
    assert spool.read_segment(path).intact


WRITER = """
import sys
from eco2ai_hpc import spool
header = dict(k="header", v=1, cluster="lab", node="n1", boot="2f0c6a52", sampler="9f3a01c2", seq=0, zones={})
writer = spool.SegmentWriter(sys.argv[1], header)
number = 0
while True:
    number += 1
    writer.append({"k": "tick", "number": number, "ballast": "x" * (number % 3000)})
    sys.stdout.write("%d\\n" % number)
    sys.stdout.flush()
"""


def test_no_line_is_lost_that_a_killed_writer_had_written(tmp_path):
    instants = random.Random(4711)
    for attempt in range(20):
        directory = tmp_path / str(attempt)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE)
        said = writer.stdout.readline()
        time.sleep(instants.uniform(0, 0.02))
        writer.send_signal(signal.SIGKILL)
        said += writer.communicate()[0]
        acknowledged = said[: said.rindex(b"\n")].count(b"\n") + 1
        [path] = spool.recover(str(directory)).sealed
        segment = spool.read_segment(path)
        assert segment.intact
        assert segment.seal.recovered
        body = Path(path).read_bytes().splitlines()[1:-1]
        numbers = [json.loads(line)["number"] for line in body[:acknowledged]]
        assert numbers == list(range(1, acknowledged + 1))
        assert len(body) <= acknowledged + 1, "at most the line being written"


# An older and a newer version in one spool


def test_an_orphan_of_a_newer_version_is_left_to_its_own_writer(tmp_path):
    newer = spool.encode(header(7) | {"v": 2, "how": "else"}) + b'{"k":"of tomorrow"}\n'
    part = orphan(tmp_path, newer, seq=7)
    orphan(tmp_path, spool.encode(header()), seq=0)
    done = spool.recover(str(tmp_path))
    assert [Path(path).name for path in done.sealed] == [spool.segment_name(BOOT_ID, "9f3a01c2", 0)]
    assert done.failed == []
    assert part.read_bytes() == newer


def test_a_sealed_segment_of_a_newer_version_is_neither_read_nor_pruned(tmp_path):
    path = sealed(tmp_path, [TICK], v=2)
    with pytest.raises(SpoolError, match="has format version 2") as caught:
        spool.read_segment(str(path))
    assert caught.value.hint == "upgrade the server before the nodes"
    digest = json_lines(path)[-1]["sha256"]
    spool.confirm(str(path), digest)
    os.utime(path, ns=(0, 0))
    assert spool.prune(str(tmp_path), now_s=time.time()).removed == []
    assert path.exists()


def test_keys_that_a_newer_writer_added_change_nothing_for_an_older_reader(tmp_path):
    zone = header()["zones"]["rapl:package-0"] | {"of": "tomorrow"}
    path = sealed(tmp_path, [TICK | {"of": "tomorrow"}], of="tomorrow", zones={"rapl:package-0": zone})
    segment = spool.read_segment(str(path))
    assert segment.intact
    assert segment.header["zones"]["rapl:package-0"]["wrap"] == 262143328850
    part = orphan(tmp_path, spool.encode(header(1, of="tomorrow")), seq=1)
    assert spool.recover(str(tmp_path)).sealed == [str(part).removesuffix(".part")]


# Confirmation and pruning


def a_day_old(path: Path) -> Path:
    os.utime(path, (time.time() - 90_000,) * 2)
    return path


def confirmed(path: Path) -> Path:
    spool.confirm(str(path), spool.read_segment(str(path)).sha256)
    return path


def test_only_what_is_confirmed_and_more_than_a_day_old_is_pruned(tmp_path):
    gone = a_day_old(confirmed(sealed(tmp_path, seq=0)))
    young = confirmed(sealed(tmp_path, seq=1))
    unconfirmed = a_day_old(sealed(tmp_path, seq=2))
    part = Path(spool.SegmentWriter(str(tmp_path), header(3)).final_path + ".part")
    a_day_old(part)
    notes = tmp_path / "notes"
    a_day_old(Path(notes.write_text("mine") and notes))
    done = spool.prune(str(tmp_path), now_s=time.time())
    assert (done.removed, done.failed) == ([str(gone)], [])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {young.name, f"{young.name}.confirmed", unconfirmed.name, part.name, "notes"}
    assert done.used_bytes == sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())


def test_how_long_confirmed_evidence_stays_is_the_sites_choice(tmp_path):
    path = confirmed(sealed(tmp_path))
    assert spool.prune(str(tmp_path), now_s=time.time(), keep_s=3600).removed == []
    assert spool.prune(str(tmp_path), now_s=time.time() + 3700, keep_s=3600).removed == [str(path)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "marker",
    [b"", b"sha256:", b"sha256:0f0f\n", b"\0" * 72, b"sha256:" + b"0" * 64 + b"\n"],
    ids=["empty", "torn", "short", "zeros", "another"],
)
def test_a_marker_that_does_not_name_the_content_confirms_nothing(tmp_path, marker):
    path = a_day_old(sealed(tmp_path))
    Path(f"{path}.confirmed").write_bytes(marker)
    assert not spool.is_confirmed(str(path))
    assert spool.prune(str(tmp_path), now_s=time.time()).removed == []
    assert path.exists()


def test_a_segment_that_changed_after_it_was_confirmed_stays(tmp_path):
    path = confirmed(sealed(tmp_path, [TICK]))
    path.write_bytes(path.read_bytes().replace(b'"clock"', b'"knock"'))
    a_day_old(path)
    assert spool.prune(str(tmp_path), now_s=time.time()).removed == []


def test_a_marker_is_its_owners_only_and_no_segment(tmp_path):
    path = confirmed(sealed(tmp_path))
    confirmed(path)
    marker = Path(f"{path}.confirmed")
    assert stat.S_IMODE(marker.stat().st_mode) == 0o600
    assert list(spool.sealed_segments(str(tmp_path))) == [str(path)]


def test_pruning_follows_no_link_and_goes_on_with_the_others(tmp_path, monkeypatch):
    directory = tmp_path / "spool"
    victim = a_day_old(sealed(tmp_path / "else"))
    stuck, gone = (a_day_old(confirmed(sealed(directory, seq=seq))) for seq in (0, 1))
    link = directory / spool.segment_name(BOOT_ID, "9f3a01c2", 2)
    link.symlink_to(victim)
    confirmed(link)
    unlink = os.unlink

    def fails(path):
        if path == str(stuck):
            raise OSError(errno.EPERM, "Operation not permitted")
        unlink(path)

    monkeypatch.setattr(os, "unlink", fails)
    done = spool.prune(str(directory), now_s=time.time())
    assert done.removed == [str(gone)]
    assert done.failed == [f"{stuck}: Operation not permitted"]
    assert victim.exists()
    assert link.is_symlink()


def test_pruning_a_spool_that_is_not_there_yet_finds_nothing(tmp_path):
    assert spool.prune(str(tmp_path / "missing"), now_s=0) == ([], [], 0)


# Kills itself before the n-th call that could change a file.
DOOMED = """
import os, signal, sys, time
from eco2ai_hpc import spool
left = int(sys.argv[3])
def doomed(call):
    def counted(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return counted
action, path = sys.argv[1:3]
digest = spool.read_segment(path).sha256
for name in ("open", "write", "close", "rename", "unlink"):
    setattr(os, name, doomed(getattr(os, name)))
if action == "confirm":
    spool.confirm(path, digest)
else:
    spool.prune(os.path.dirname(path), time.time())
"""


def killed_at(step: int, action: str, path: Path) -> bool:
    """Whether it came so far."""
    command = [sys.executable, "-c", DOOMED, action, str(path), str(step)]
    return subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_collector_killed_at_any_step_of_confirming_confirms_all_or_nothing(tmp_path):
    step, said = 0, []
    while True:
        path = a_day_old(sealed(tmp_path / str(step), [TICK]))
        is_killed = killed_at(step, "confirm", path)
        said.append(spool.is_confirmed(str(path)))
        assert (path in map(Path, spool.prune(str(path.parent), time.time()).removed)) == said[-1]
        if not said[-1]:
            assert spool.read_segment(str(path)).intact
            confirmed(path)
            assert spool.prune(str(path.parent), time.time()).removed == [str(path)]
        assert list(path.parent.iterdir()) == [], "nothing is left over"
        if not is_killed:
            break
        step += 1
    assert said == [False] * step + [True]
    assert step == 4, "open, write, close, rename"


def test_a_sampler_killed_at_any_step_of_pruning_removes_no_unconfirmed_evidence(tmp_path):
    for step in range(10):
        directory = tmp_path / str(step)
        doomed = [a_day_old(confirmed(sealed(directory, [TICK], seq=seq))) for seq in (0, 1)]
        unconfirmed = a_day_old(sealed(directory, [TICK], seq=2))
        if not killed_at(step, "prune", doomed[0]):
            break
        assert spool.read_segment(str(unconfirmed)).intact
        for path in doomed:
            assert not path.exists() or spool.is_confirmed(str(path))
        spool.prune(str(directory), time.time())
        assert list(directory.iterdir()) == [unconfirmed]
    assert step == 4, "two segments and their two markers"


def test_the_bound_is_a_share_of_the_file_system(tmp_path, monkeypatch):
    class Small:
        f_frsize, f_blocks = 4096, (10 << 30) // 4096

    monkeypatch.setattr(os, "statvfs", lambda _path: Small)
    assert spool.default_bound_bytes(str(tmp_path / "not" / "yet")) == (10 << 30) // 20
    Small.f_blocks = 1
    assert spool.default_bound_bytes(str(tmp_path)) == 64 << 20
    Small.f_blocks = 1 << 40
    assert spool.default_bound_bytes(str(tmp_path)) == 2 << 30


# Disks that fail


def test_no_half_line_stays_on_a_full_disk(disk):
    writer = spool.SegmentWriter(str(disk.path), header())
    disk.fill()
    written = [header()]
    sizes = random.Random(1)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        while True:
            line = TICK | {"ballast": "x" * sizes.randrange(300)}
            writer.append(line)
            written.append(line)
    part = Path(writer.final_path + ".part")
    assert part.read_bytes() == b"".join(map(spool.encode, written))
    disk.free()
    writer.append(TICK)
    writer.seal()
    assert json_lines(Path(writer.final_path))[:-1] == [*written, TICK]
    assert spool.read_segment(writer.final_path).intact


def test_a_trailer_that_does_not_fit_leaves_the_segment_open(disk):
    writer = spool.SegmentWriter(str(disk.path), header())
    disk.fill()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        while True:
            writer.append({"k": "x"})
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            writer.seal()
    disk.free()
    writer.append(TICK)
    writer.seal()
    assert spool.read_segment(writer.final_path).intact


def test_a_header_that_does_not_fit_leaves_no_file(disk):
    disk.fill()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        spool.SegmentWriter(str(disk.path), header())
    assert [path.name for path in disk.path.iterdir()] == ["ballast"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_segment_that_could_not_be_sealed_goes_on(tmp_path, monkeypatch, call):
    def fails(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    writer = spool.SegmentWriter(str(tmp_path), header())
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(OSError, match="Input/output error"):
            writer.seal()
    writer.append(TICK)
    writer.seal()
    assert spool.read_segment(writer.final_path).intact
    assert json_lines(Path(writer.final_path))[:-1] == [header(), TICK]


def test_a_header_that_fails_and_cannot_be_removed_still_says_what_failed(tmp_path, monkeypatch):
    def fails(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fails)
        patched.setattr(os, "unlink", lambda _path: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
        with pytest.raises(OSError, match="Input/output error"):
            spool.SegmentWriter(str(tmp_path), header())


def test_a_segment_that_lost_its_name_is_noticed(tmp_path):
    writer = spool.SegmentWriter(str(tmp_path / "spool"), header())
    part = Path(writer.final_path + ".part")
    assert writer.is_in_place()
    content = part.read_bytes()
    part.unlink()
    assert not writer.is_in_place()
    part.write_bytes(content)
    assert not writer.is_in_place(), "another file of the name"
    part.unlink()
    part.parent.rmdir()
    part.parent.write_text("")
    assert not writer.is_in_place()


def test_only_a_failure_that_may_have_taken_earlier_lines_is_doubtful(tmp_path, monkeypatch):
    for number, is_doubtful in [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, True), (errno.EROFS, True)]:
        writer = spool.SegmentWriter(str(tmp_path / str(number)), header())

        def fails(*_arguments, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fails)
            with pytest.raises(OSError, match=os.strerror(number)):
                writer.append(TICK)
        assert writer.is_doubtful == is_doubtful


def test_a_half_line_that_cannot_be_taken_back_at_once_is_taken_back_later(tmp_path, monkeypatch):
    def fails(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    write = os.write
    writer = spool.SegmentWriter(str(tmp_path), header())
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
        patched.setattr(os, "ftruncate", fails)
        with pytest.raises(OSError, match="No space left"):
            writer.append(TICK)
    writer.append(TICK)
    writer.seal()
    assert json_lines(Path(writer.final_path))[:-1] == [header(), TICK]
    assert spool.read_segment(writer.final_path).intact


def test_a_file_system_without_locks_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    def fails(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patched:
        patched.setattr(spool.fcntl, "flock", fails)
        with pytest.raises(OSError, match="No locks available"):
            spool.SegmentWriter(str(tmp_path), header())
    spool.SegmentWriter(str(tmp_path), header()).seal()


# Names and modes


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../lab", "/etc", "a/b", "a\0b", ".hidden", "-n", "lab\n", "n 1", "knöten"]
)
def test_no_name_leaves_the_spool(name):
    for cluster, node in [(name, "n1"), ("lab", name)]:
        with pytest.raises(SpoolError, match="cannot be a spool directory"):
            spool.node_directory("/var/spool/eco2ai-hpc", cluster, node)


@pytest.mark.parametrize("name", ["n1", "n001.cluster.example", "gpu-7", "a_b", "3", "_x", "c++"])
def test_a_name_as_sites_use_it_is_taken(name):
    assert spool.node_directory("/s", "lab", name) == f"/s/lab/{name}"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], ids=oct)
def test_files_and_directories_are_their_owners_only(tmp_path, umask):
    before = os.umask(umask)
    try:
        directory = Path(spool.node_directory(str(tmp_path / "var/spool"), "lab", "n1"))
        path = sealed(directory)
        spool.SegmentWriter(str(directory), header(1))
    finally:
        os.umask(before)
    modes = [
        stat.S_IMODE(entry.stat().st_mode) for entry in (directory.parent, directory, path, *directory.glob("*.part"))
    ]
    assert modes == [0o700, 0o700, 0o600, 0o600]


def test_a_segment_is_never_written_twice(tmp_path):
    spool.SegmentWriter(str(tmp_path), header())
    with pytest.raises(FileExistsError):
        spool.SegmentWriter(str(tmp_path), header())


def test_segments_are_found_below_every_node_and_nothing_else_is(tmp_path):
    expected = [
        sealed(tmp_path / cluster / node, seq=seq)
        for cluster, node, seq in [("a", "n1", 0), ("a", "n1", 1), ("a", "n2", 0), ("b", "n1", 1_000_000)]
    ]
    open_one = spool.SegmentWriter(str(tmp_path / "a" / "n1"), header(2))
    (tmp_path / "a" / "n1" / "notes.ndjson").write_text("")
    (tmp_path / "a" / "n1" / f"{expected[0].name}\n").write_text("")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    assert list(spool.sealed_segments(str(tmp_path))) == [str(path) for path in expected]
    assert not Path(open_one.final_path).exists()
