"""Node lists, CPUs per node and node capacities as Slurm writes them."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco2ai_hpc.collector.nodes import cpus_on_node, expand_nodes, parse_node_specs
from eco2ai_hpc.collector.slurm import read_node_specs
from eco2ai_hpc.errors import BadInputError, SurroundingsError
from eco2ai_hpc.model import NodeSpec, Problem

FIXTURES = Path(__file__).parent / "fixtures"
RECORDED = FIXTURES / "scontrol-nodes-22.05-hostile-comment.txt"
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("gpu-a100_07.cluster", ["gpu-a100_07.cluster"]),
        ("n[1-2],m3", ["n1", "n2", "m3"]),
        ("n[1-2,5,8-9]", ["n1", "n2", "n5", "n8", "n9"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[98-101]", ["n98", "n99", "n100", "n101"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("n[98-99,08]", ["n98", "n99", "n08"]),
        ("n[9-010]", ["n9", "n10"]),  # as `scontrol show hostnames` has it
        ("n[009-011]", ["n009", "n010", "n011"]),
        ("rack1n[1-2]-ib", ["rack1n1-ib", "rack1n2-ib"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),  # as `scontrol show hostnames` has it
        ("k[3,1],a5,k[01-02]", ["k3", "k1", "a5", "k01", "k02"]),
        ("z1,a1", ["z1", "a1"]),
        ("", []),
    ],
)
def test_a_node_list_keeps_slurm_s_order(text: str, names: list[str]) -> None:
    assert expand_nodes(text) == names


@pytest.mark.parametrize(
    "text",
    ["None assigned", "(null)", "@all", "n[1-2", "n1,,n2", "n[2-1]", "n[1-4/2]", "n1!n2", "n[a-b]", "n[1-999999999]",
     "r[1-1000]n[1-1000]", ",", "n1\n",
     f"n[1-{'9' * 5000}]", "n]1[", "n[1,2", "n1]"],
)  # fmt: skip
def test_what_slurm_does_not_write_is_bad_input(text: str) -> None:
    with pytest.raises(BadInputError, match="node list"):
        expand_nodes(text)


def test_a_padded_range_goes_on_beyond_its_width() -> None:
    names = expand_nodes("n[08-101]")  # `scontrol show hostlist n08,…,n101` on Slurm 22.05
    assert (names[0], names[91], names[92], len(names)) == ("n08", "n99", "n100", 94)


@st.composite
def node_lists(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A list as Slurm writes it, and its names in order."""
    parts, names = [], []
    for prefix in draw(st.lists(st.sampled_from(["n", "gpu-", "r1c2n", "a.b_"]), min_size=1, max_size=4, unique=True)):
        width = draw(st.integers(1, 4))
        ends = sorted(draw(st.sets(st.integers(0, 120), min_size=2, max_size=8)))
        pairs = list(itertools.pairwise(ends))[::2]
        ranges = [f"{first:0{width}}-{last:0{width}}" if last > first else f"{first:0{width}}" for first, last in pairs]
        parts.append(f"{prefix}[{','.join(ranges)}]")
        names += [f"{prefix}{number:0{width}}" for first, last in pairs for number in range(first, last + 1)]
    return ",".join(parts), names


@settings(deadline=None)
@given(node_lists())
def test_a_node_list_has_the_names_that_it_was_made_of(written: tuple[str, list[str]]) -> None:
    text, names = written
    assert expand_nodes(text) == names


@settings(deadline=None)
@given(node_lists(), st.data())
def test_each_node_gets_the_cpus_that_stand_at_its_place(written: tuple[str, list[str]], data: st.DataObject) -> None:
    text, names = written
    cpus = data.draw(st.lists(st.sampled_from([1, 2, 64]), min_size=len(names), max_size=len(names)))
    runs = [(value, len(list(group))) for value, group in itertools.groupby(cpus)]
    per_node = ",".join(f"{value}(x{times})" if times > 1 else str(value) for value, times in runs)
    for place in {0, len(names) // 2, len(names) - 1}:
        assert cpus_on_node(text, per_node, names[place]) == cpus[place]


@pytest.mark.parametrize(
    ("node_list", "per_node", "node", "cpus"),
    [
        ("k[1-2]", "1,2", "k2", 2),  # recorded on Slurm 22.05
        ("n[1-2],m3", "2(x2),1", "m3", 1),
        ("n1", "16", "n1", 16),
        ("n[1-3]", "2(x2),1", "n9", None),
        ("n[1-2]", "2", "n1", None),
        ("n[1-2]", "2(x3),1", "n1", None),
        ("n2", "2(x2)", "n2", 2),  # released by a job that shrank: it had 2 wherever it stood
        ("n2", "2,4", "n2", None),
        ("n1,n1", "2(x2)", "n1", None),
        ("n1", "", "n1", None),
        ("n1", "2(x0)", "n1", None),
        ("n1", "two", "n1", None),
        ("@all", "2", "n1", None),
        ("n[1-2]", "2(x99999999)", "n1", 2),
    ],
)
def test_cpus_on_a_node_are_known_only_where_the_strings_fit(
    node_list: str, per_node: str, node: str, cpus: int | None
) -> None:
    assert cpus_on_node(node_list, per_node, node) == cpus


def test_node_capacities_are_those_that_slurm_may_allocate() -> None:
    specs = [item for item in parse_node_specs(RECORDED.read_text().splitlines()) if isinstance(item, NodeSpec)]
    assert specs == [
        NodeSpec("b1", 16, 16000 * MIB, 0, "scontrol"),
        NodeSpec("k1", 2, 4000 * MIB, 2, "scontrol"),  # its Comment says RealMemory=5 CPUEfctv=7 and goes on
        NodeSpec("k2", 2, 4000 * MIB, 2, "scontrol"),
        NodeSpec("k9", 12, 15000 * MIB, 0, "scontrol"),  # 2 cores of 2 threads and 1000 MiB kept for the system
        NodeSpec("k10", 12, 16000 * MIB, 0, "scontrol"),
    ]


def test_a_comment_that_imitates_a_node_is_a_problem() -> None:
    problems = [item for item in parse_node_specs(RECORDED.read_text().splitlines()) if isinstance(item, Problem)]
    assert [(problem.line, problem.file) for problem in problems] == [(3, "scontrol")]
    assert "NodeName=zz" in problems[0].found


LINE = (
    "NodeName=n1 Arch=x86_64 CoresPerSocket=4 CPUAlloc=0 {cpus} CPULoad=0.1 {gres} NodeAddr=n1 Version=20.11.9 "
    "OS=Linux CPUTot=3 RealMemory=7 #1 SMP Gres=gpu:9  RealMemory=16000 AllocMem=0 FreeMem=5 Sockets=2 Boards=1 "
    "{kept} State=IDLE ThreadsPerCore=2 TmpDisk=0 Partitions=main  AllocTRES= Reason=bad CPUEfctv=1 [root@now]"
)


@pytest.mark.parametrize(
    ("cpus", "kept", "expected"),
    [
        ("CPUTot=16", "", 16),
        ("CPUTot=16", "CoreSpecCount=2", 12),
        ("CPUTot=16", "CoreSpecCount=2 CPUSpecList=0-1,8", 13),
        ("CPUEfctv=10 CPUTot=16", "CoreSpecCount=2", 10),
    ],
)
def test_cpus_kept_for_the_system_are_not_counted(cpus: str, kept: str, expected: int) -> None:
    (spec,) = parse_node_specs([LINE.format(cpus=cpus, kept=kept, gres="Gres=(null)")])
    assert spec == NodeSpec("n1", expected, 16000 * MIB, 0, "scontrol")


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("Gres=gpu:2", 2),
        ("Gres=gpu:a100:4(S:0,1),gpu:v100:2(S:1),mps:400", 6),
        ("Gres=gpu:a100_3g.20gb:8,gpumem:1", 8),
        ("Gres=gpu", 1),
        ("Gres=", 0),
        ("", None),
    ],
)
def test_gpus_are_those_of_all_types(gres: str, gpus: int | None) -> None:
    (spec,) = parse_node_specs([LINE.format(cpus="CPUTot=16", kept="", gres=gres)])
    assert isinstance(spec, NodeSpec)
    assert spec.gpus == gpus


def fake_scontrol(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "scontrol"
    script.write_text(f"#!/bin/bash\n[ \"$*\" = 'show node -o' ] || exit 9\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_node_specs_are_asked_of_scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_scontrol(tmp_path, f"cat '{RECORDED}'", monkeypatch)
    assert [spec.node for spec in read_node_specs()] == ["b1", "k1", "k2", "k9", "k10"]


@pytest.mark.parametrize(
    ("body", "timeout_s", "message"),
    [
        ("echo 'slurm_load_node error: Unable to contact slurm controller' >&2; exit 1", 30, "Unable to contact"),
        ("echo NodeName=n1 Strange=1", 30, "expected NodeName with CPUTot and RealMemory, found 'NodeName=n1 Strange"),
        ("exec sleep 60", 0.3, "did not finish within 0.3 s"),
    ],
)
def test_a_scontrol_that_does_not_answer_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, timeout_s: float, message: str
) -> None:
    fake_scontrol(tmp_path, body, monkeypatch)
    with pytest.raises(SurroundingsError, match=message):
        read_node_specs(timeout_s=timeout_s)
