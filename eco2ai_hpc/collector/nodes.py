"""What Slurm's strings say about nodes: node lists, CPUs per node, and `scontrol show node -o`."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from eco2ai_hpc.errors import BadInputError
from eco2ai_hpc.model import NodeSpec, Problem
from eco2ai_hpc.units import BYTES_PER_MIB

MAX_NODES = 100_000
"""Slurm itself stops below 65,536; a longer list is a mistake that would fill the memory."""
AS_SLURM = "write it as Slurm does: n[1-2],m3"

_PLAIN = re.compile(r"[\w.\-]+", re.ASCII)
_RANGE = r"[0-9]{1,18}(?:-[0-9]{1,18})?"
_PART = re.compile(rf"[\w.\-]*(?:\[{_RANGE}(?:,{_RANGE})*\][\w.\-]*)+", re.ASCII)
_BRACKET = re.compile(r"\[([^\]]*)\]")
_COUNT = re.compile(r"[0-9]{1,18}")
_CPU_RUN = re.compile(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?")
_OS = re.compile(r" OS=.*?(?= RealMemory=[0-9]+ AllocMem=)")
_USER_TEXT = re.compile(r" (?:Comment|Extra|Reason)=.*")
_PAIR = re.compile(r"(?:^|(?<= ))(\w+)=(\S*)", re.ASCII)


def expand_nodes(text: str) -> list[str]:
    """The names in one of Slurm's node lists, in the order of the list.

    Slurm writes a job's list and its CPUs per node in the order of its node table, which it sorts by name with
    numbers as numbers (n2 before n10). The text is therefore never sorted again: n10,n2 stays so. ClusterShell's
    NodeSet would sort it, and refuses n[08-101], which Slurm writes for n08 to n101.
    Raises BadInputError for what Slurm does not write (operators, @groups, steps, falling ranges, `None assigned`).
    """
    if _PLAIN.fullmatch(text):
        return [text]
    names: list[str] = []
    for part in _parts(text):
        names.extend(_expand_part(part, text, MAX_NODES - len(names)))
    return names


def _parts(text: str) -> Iterator[str]:
    """What stands between the commas outside brackets."""
    held: list[str] = []
    for piece in text.split(",") if text else []:
        held.append(piece)
        joined = ",".join(held) if "]" in piece or len(held) == 1 else ""
        if joined and joined.rfind("[") <= joined.rfind("]"):
            yield joined
            held = []
    if held:
        yield ",".join(held)


def _expand_part(part: str, text: str, room: int) -> list[str]:
    if _PLAIN.fullmatch(part):
        return [part]
    if not _PART.fullmatch(part):
        raise BadInputError(f"node list {text[:200]!r} is not Slurm's: stopped at {part[:80]!r}", hint=AS_SLURM)
    ranges = _BRACKET.findall(part)
    if any(_width(piece) < 1 for pieces in ranges for piece in pieces.split(",")):
        raise BadInputError(f"node list {text[:200]!r} has a range that falls: {part[:80]!r}", hint=AS_SLURM)
    if _size(ranges) > room:
        raise BadInputError(f"node list {text[:200]!r} names more than {MAX_NODES} nodes", hint=AS_SLURM)
    literals = _BRACKET.split(part)[::2]
    numbers = itertools.product(*(_numbers(pieces) for pieces in ranges))
    return ["".join(chain(*zip(literals, (*row, ""), strict=True))) for row in numbers]


def _numbers(pieces: str) -> list[str]:
    """`08-11,3` as Slurm counts: all of a range at least as wide as its first number."""
    ends = (piece.partition("-") for piece in pieces.split(","))
    return [
        f"{number:0{len(first)}}" for first, _, last in ends for number in range(int(first), int(last or first) + 1)
    ]


def _size(ranges: Iterable[str]) -> int:
    return math.prod(sum(_width(piece) for piece in pieces.split(",")) for pieces in ranges)


def _width(piece: str) -> int:
    first, _, last = piece.partition("-")
    return int(last or first) - int(first) + 1


def cpus_on_node(node_list: str, cpus_per_node: str, node: str) -> int | None:
    """The CPUs of a job on one node, from SLURM_JOB_NODELIST and SLURM_JOB_CPUS_PER_NODE (`2(x2),1`).

    None where the two do not fit or the node is not in the list. After a job shrank the released node's epilog has its
    own name alone beside the old counts: then the count is known only if it is the same for all.
    """
    runs = _cpu_runs(cpus_per_node)
    try:
        nodes = expand_nodes(node_list)
    except BadInputError:
        return None
    if not runs or nodes.count(node) != 1:
        return None
    total = sum(times for _, times in runs)
    if total == len(nodes):
        return _at(runs, nodes.index(node))
    values = {cpus for cpus, _ in runs}
    return values.pop() if len(values) == 1 and len(nodes) < total else None


def _cpu_runs(text: str) -> list[tuple[int, int]]:
    """(CPUs, number of nodes) in list order; empty if the text is not of this form."""
    matches = [_CPU_RUN.fullmatch(part) for part in text.split(",")]
    runs = [(int(match[1]), int(match[2] or 1)) for match in matches if match]
    return runs if len(runs) == len(matches) and all(times > 0 for _, times in runs) else []


def _at(runs: Iterable[tuple[int, int]], place: int) -> int | None:
    for cpus, times in runs:
        if place < times:
            return cpus
        place -= times
    return None


def parse_node_specs(lines: Iterable[str], *, source: str = "scontrol") -> Iterator[NodeSpec | Problem]:
    """Yield what each line of `scontrol show node -o` says can be allocated.

    OS, Comment, Extra and Reason are free text with blanks, `=` and newlines: they are cut out first, and of the rest
    the first of each known key counts. A line that does not begin with NodeName= is the rest of such a text.
    cpus: CPUEfctv (Slurm 22.05 and later), else CPUTot less the CPUs of CPUSpecList or of CoreSpecCount.
    gpus: all of Gres; 0 for `(null)`, None without the key.
    """
    for number, line in enumerate(lines, start=1):
        if not line.startswith("NodeName="):
            continue
        keys = _known_keys(line.rstrip("\n"))
        spec = _node_spec(keys, source)
        yield spec or Problem(source, number, "NodeName with CPUTot and RealMemory", repr(line[:120]))


def _known_keys(line: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name, value in _PAIR.findall(_USER_TEXT.sub("", _OS.sub("", line, count=1), count=1)):
        keys.setdefault(name, value)
    return keys


def _node_spec(keys: dict[str, str], source: str) -> NodeSpec | None:
    node, cpus = keys.get("NodeName"), _cpus(keys)
    memory_mib, kept_mib = _count(keys, "RealMemory"), _count(keys, "MemSpecLimit") or 0
    # AllocMem: a line of free text may begin with NodeName= too, but is not the whole record.
    if not node or cpus is None or memory_mib is None or "AllocMem" not in keys:
        return None
    return NodeSpec(node, cpus, max(memory_mib - kept_mib, 0) * BYTES_PER_MIB, _gres_gpus(keys.get("Gres")), source)


def _count(keys: dict[str, str], name: str) -> int | None:
    text = keys.get(name, "")
    return int(text) if _COUNT.fullmatch(text) else None


def _cpus(keys: dict[str, str]) -> int | None:
    effective, total = _count(keys, "CPUEfctv"), _count(keys, "CPUTot")
    if effective is not None or total is None:
        return effective
    listed = keys.get("CPUSpecList", "")
    if re.fullmatch(rf"{_RANGE}(?:,{_RANGE})*", listed):
        return max(total - _size([listed]), 0)
    return max(total - (_count(keys, "CoreSpecCount") or 0) * (_count(keys, "ThreadsPerCore") or 1), 0)


def _gres_gpus(gres: str | None) -> int | None:
    """`gpu:a100:4(S:0-1),gpu:v100:2` is 6; an entry without a number is one."""
    if gres is None:
        return None
    entries = [entry.split(":") for entry in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(int(entry[-1]) if _COUNT.fullmatch(entry[-1]) else 1 for entry in entries if entry[0] == "gpu")
