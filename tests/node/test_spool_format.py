"""docs/spool-format.md as another implementation reads it: its example is a segment, its tables hold for real lines."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from node_tree import write_tree

from eco2ai_hpc import spool

PAGE = (Path(__file__).parents[2] / "docs" / "spool-format.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \|", re.MULTILINE)
TYPES = {
    "text": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "null": type(None),
    "array of text": list,
}  # fmt: skip


def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Kind of line -> key -> (type, required); a zone's and a run's part of a tick are kinds of their own."""
    found = {}
    for section in re.split(r"(?m)^### ", PAGE)[1:]:
        kind = section.split("\n", 1)[0]
        for table in re.split(r"\n\n", section.split("\n## ")[0]):
            name = {"| zone": "zone", "| run ": "run"}.get(table[:6], kind)
            rows = {key: (kinds, required) for key, kinds, required in ROW.findall(table)}
            if rows:
                found[name] = rows
    return found


TABLES = tables()


@pytest.fixture
def example(tmp_path) -> Path:
    [text] = re.findall(r"(?s)```ndjson\n(.*?)```", PAGE)
    header = json.loads(text.split("\n", 1)[0])
    path = tmp_path / spool.segment_name(header["boot"], header["sampler"], header["seq"])
    path.write_text(text)
    return path


def hold_against_the_tables(line: dict, kind: str) -> None:
    table = TABLES[kind]
    assert set(line) <= set(table), f"{kind}: keys that the page does not name"
    assert {key for key, (_, required) in table.items() if required == "yes"} <= set(line), f"{kind}: keys it requires"
    for key, value in line.items():
        allowed = [TYPES[kind] for kind in table[key][0].strip().split(" or ")]
        assert any(isinstance(value, one) for one in allowed), f"{kind}: {key} is {value!r}"


def hold_all(lines: list[dict]) -> None:
    for line in lines:
        hold_against_the_tables(line, line["k"])
        for zone in line.get("zones", {}).values():
            hold_against_the_tables(zone, "zone")
        for use in line.get("jobs", {}).values():
            hold_against_the_tables(use, "run")


def test_the_example_is_a_segment(example):
    segment = spool.read_segment(str(example))
    assert segment.intact
    assert (segment.header["seq"], segment.lines, segment.seal.recovered) == (12, 11, False)


def test_the_example_shows_every_kind_of_line_and_holds_to_the_tables(example):
    lines = [json.loads(line) for line in example.read_text().splitlines()]
    assert {line["k"] for line in lines} == set(TABLES) - {"zone", "run"}
    hold_all(lines)


def test_the_command_that_the_page_gives_for_the_digest_gives_it(example):
    [command] = re.findall(r"`(head [^`]*sha256sum)`", PAGE)
    shown = subprocess.run(
        ["sh", "-c", command.replace("FILE", str(example))], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[0] == spool.read_segment(str(example)).seal.sha256


def test_what_the_sampler_writes_is_what_the_page_says(node, clock):
    first = node.begin()
    node.mark("start", 7, SLURM_JOB_UID="5001", SLURM_JOB_SLUID="sEKNKTV3WPV500")
    write_tree(
        node.tree / "cgroup/system.slice/slurmstepd.scope/job_7",
        {"cpu.stat": "usage_usec 5", "memory.current": 4096, "memory.max": 8192, "cpuset.cpus.effective": "0-3"},
    )
    node.counter("intel-rapl:1", "garbage")
    node.run(first, 60)
    first.end(clock())
    second = node.begin()
    node.mark("end", 7)
    node.mark("end", 8)
    node.run(second, 60)
    second.end(clock())
    lines = node.lines()
    hold_all(lines)
    assert {line["k"] for line in lines} == set(TABLES) - {"zone", "run", "mark", "gap"}
    assert any("err" in line for line in lines)
    assert any(line.get("resumed") for line in lines)


def test_header_keys_that_the_page_requires_are_those_a_reader_insists_on():
    required = {key for key, (_, required) in TABLES["header"].items() if required == "yes"} - {"k"}
    assert set(spool._HEADER_KEYS) <= required
    assert set(spool._HEADER_KEYS) | set(spool._OPTIONAL_HEADER_KEYS) == set(TABLES["header"]) - {"k"}
    assert set(spool._ZONE_KEYS) | set(spool._OPTIONAL_ZONE_KEYS) == set(TABLES["zone"])
