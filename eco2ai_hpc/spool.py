"""The node's evidence file: written line by line, sealed with a digest, read and verified again.

A segment is newline-delimited JSON: a header, lines, a trailer. docs/spool-format.md specifies it for other writers.

* One line is one `os.write` on an O_APPEND descriptor: `kill -9` loses at most the line being written.
* `NAME.ndjson.part` is open; `NAME.ndjson` is sealed: its trailer has line count and SHA-256 of what stands before it.
* An orphaned `.part` is sealed as it stands by the next sampler (`recovered`), torn tail included.
"""

import binascii
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from eco2ai_hpc.errors import SpoolError

VERSION = 1
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
NAME = re.compile(r"^(?P<boot>[0-9a-f]{8})-(?P<run>[0-9a-f]{8})-(?P<seq>[0-9]{6})\.ndjson$")
_PART = ".part"
# A directory name of the spool is a cluster's or a node's; both come from outside.
_SAFE = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")

Line = Mapping[str, Any]


class Seal(NamedTuple):
    """What a trailer says about the bytes before it."""

    lines: int
    sha256: str
    recovered: bool


def new_run_id() -> str:
    """Eight random hex digits that tell one life of the sampler from another."""
    return binascii.hexlify(os.urandom(4)).decode()


def segment_name(boot_id: str, sampler_run: str, seq: int) -> str:
    """The file name of a sealed segment."""
    return f"{boot_id.replace('-', '')[:8]}-{sampler_run}-{seq:06d}.ndjson"


def node_directory(spool_dir: str, cluster: str, node: str) -> str:
    """SPOOL/<cluster>/<node>; raises SpoolError where a name could leave the spool."""
    for what, name in (("cluster", cluster), ("node", node)):
        if not _SAFE.match(name):
            raise SpoolError(f"{what} name {name!r} cannot be a spool directory", hint="use letters, digits, . _ -")
    return os.path.join(spool_dir, cluster, node)


def encode(line: Line) -> bytes:
    """One line, newline included; ASCII only, so that a torn tail cannot split a character."""
    return json.dumps(line, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"


class SegmentWriter:
    """One open segment. Every method raises OSError as the system gave it."""

    def __init__(self, directory: str, header: dict[str, Any]) -> None:
        os.makedirs(directory, mode=DIRECTORY_MODE, exist_ok=True)
        name = segment_name(header["boot"], header["sampler"], header["seq"])
        self.final_path = os.path.join(directory, name)
        self.lines = 0
        self._digest = hashlib.sha256()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.final_path + _PART, flags, FILE_MODE)
        # Held as long as the writer lives: tells an open segment from an orphan (see recover).
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self.append(header)
        except OSError:
            os.unlink(self.final_path + _PART)
            os.close(self._fd)
            raise

    def append(self, line: Line) -> None:
        """Write one line; a short write is taken back so that no half line stays (full disk)."""
        data = encode(line)
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(28, "no space for a whole line", self.final_path)
        self._digest.update(data)
        self.lines += 1

    def seal(self) -> str:
        """Append the trailer, flush, rename; return the segment's digest."""
        digest = self._digest.hexdigest()
        data = encode(trailer(Seal(self.lines, digest, recovered=False)))
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(28, "no space for the trailer", self.final_path)
        os.fsync(self._fd)
        os.rename(self.final_path + _PART, self.final_path)
        os.close(self._fd)
        return digest

    def flush(self) -> None:
        """Bring what was written to the disk: bounds what a loss of power takes."""
        os.fdatasync(self._fd)


def trailer(seal: Seal) -> dict[str, Any]:
    """The last line of a sealed segment."""
    return {"k": "trailer", "lines": seal.lines, "sha256": seal.sha256, "recovered": seal.recovered}


def recover(directory: str) -> list[str]:
    """Seal every orphaned `.part` below `directory` as it stands; return the sealed paths.

    A torn last line stays, ended by a newline, so that the reader can show it. A `.part` that another process
    holds open and one without a single whole line are left alone and removed, respectively.
    """
    sealed = []
    for name in sorted(_listdir(directory)):
        if name.endswith(_PART) and NAME.match(name.removesuffix(_PART)):
            path = os.path.join(directory, name)
            done = _seal_orphan(path)
            if done:
                sealed.append(done)
    return sealed


def _listdir(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _seal_orphan(path: str) -> str | None:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        content = _read_all(fd)
        if b"\n" not in content:
            os.unlink(path)
            return None
        whole = _tail_is_trailer(content)
        if whole is None:
            if not content.endswith(b"\n"):
                os.write(fd, b"\n")
                content += b"\n"
            seal = Seal(content.count(b"\n"), hashlib.sha256(content).hexdigest(), recovered=True)
            os.write(fd, encode(trailer(seal)))
            os.fsync(fd)
        final = path.removesuffix(_PART)
        os.rename(path, final)
        return final
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    chunks = []
    while chunk := os.read(fd, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


def _tail_is_trailer(content: bytes) -> Seal | None:
    """The seal of a complete, matching trailer at the end (killed between trailer and rename)."""
    if not content.endswith(b"\n"):
        return None
    start = content.rfind(b"\n", 0, -1) + 1
    seal = parse_trailer(content[start:])
    if seal is None or seal.sha256 != hashlib.sha256(content[:start]).hexdigest():
        return None
    return seal


def parse_trailer(line: bytes) -> Seal | None:
    """The seal in a trailer line; None if it is not one."""
    try:
        found = json.loads(line)
        if found["k"] != "trailer":
            return None
        return Seal(int(found["lines"]), str(found["sha256"]), bool(found["recovered"]))
    except (ValueError, KeyError, TypeError):
        return None


class Segment(NamedTuple):
    """A sealed segment as read from disk."""

    path: str
    header: dict[str, Any]
    seal: Seal
    sha256: str
    """Digest of the bytes before the trailer, as found; equals seal.sha256 if nobody altered the file."""
    lines: int
    """Lines before the trailer, as found."""
    size_bytes: int

    @property
    def intact(self) -> bool:
        """Whether count and digest of the trailer hold."""
        return self.sha256 == self.seal.sha256 and self.lines == self.seal.lines


def read_segment(path: str) -> Segment:
    """Read header and trailer of a sealed segment and compute its digest.

    Raises SpoolError, with file and line, where the header or the trailer cannot be read: a partial copy, for example.
    """
    with open(path, "rb") as file:
        content = file.read()
    start = content.rfind(b"\n", 0, -1) + 1
    seal = parse_trailer(content[start:])
    if seal is None:
        raise SpoolError(
            f"{path}, last line: expected a trailer, found {content[start : start + 40]!r}",
            hint="a partial copy is loaded once the whole file is there",
        )
    body = content[:start]
    return Segment(
        path=path,
        header=_parse_header(path, body.split(b"\n", 1)[0]),
        seal=seal,
        sha256=hashlib.sha256(body).hexdigest(),
        lines=body.count(b"\n"),
        size_bytes=len(content),
    )


_HEADER_KEYS = {"v": int, "cluster": str, "node": str, "boot": str, "sampler": str, "seq": int, "zones": dict}


def _parse_header(path: str, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        if header["k"] != "header":
            raise KeyError("k")
        wrong = [key for key, kind in _HEADER_KEYS.items() if not isinstance(header[key], kind)]
    except (ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{path}:1: expected a header line, found {line[:60]!r} ({error})") from None
    if wrong:
        raise SpoolError(f"{path}:1: header key {wrong[0]!r} has the wrong type")
    if header["v"] > VERSION:
        raise SpoolError(
            f"{path}:1: has format version {header['v']}, expected 1 to {VERSION}",
            hint="upgrade the server before the nodes",
        )
    return dict(header)


def sealed_segments(directory: str) -> Iterator[str]:
    """Yield the paths of all sealed segments below `directory`, in name order; follows no symbolic link."""
    for base, folders, files in os.walk(directory, followlinks=False):
        folders.sort()
        for name in sorted(files):
            if NAME.match(name):
                yield os.path.join(base, name)
