"""The node's evidence file: written line by line, sealed with a digest, read and verified again.

A segment is newline-delimited JSON: a header, lines, a trailer. docs/spool-format.md specifies it for other writers.

* One line is one `os.write` on an O_APPEND descriptor: `kill -9` loses at most the line being written.
* `NAME.ndjson.part` is open; `NAME.ndjson` is sealed: its trailer has line count and SHA-256 of what stands before it.
* An orphaned `.part` is sealed as it stands by the next sampler (`recovered`), torn tail included.
* `NAME.ndjson.confirmed` says that the content is in a ledger: only then, and a day later, a segment is pruned.
"""

import binascii
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from eco2ai_hpc.errors import SpoolError

VERSION = 1
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
NAME = re.compile(r"^(?P<boot>[0-9a-f]{8})-(?P<run>[0-9a-f]{8})-(?P<seq>[0-9]{6,})\.ndjson\Z")
ONE_DAY_S = 86_400
_PART = ".part"
CONFIRMED = ".confirmed"
_LARGEST_BOUND = 2 << 30
_SMALLEST_BOUND = 64 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# A directory name of the spool is a cluster's or a node's; both come from outside.
_SAFE = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*\Z")

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
    """One open segment. Every method raises OSError as the system gave it, and then leaves whole lines only."""

    def __init__(self, directory: str, header: dict[str, Any]) -> None:
        _make_directories(directory)
        name = segment_name(header["boot"], header["sampler"], header["seq"])
        self.final_path = os.path.join(directory, name)
        self.lines = 0
        self.is_doubtful = False
        """Whether the system failed otherwise than by want of room: what was written before may be lost too."""
        self._digest = hashlib.sha256()
        self._size = 0
        self._is_torn = False
        self._is_named_on_disk = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.final_path + _PART, flags, FILE_MODE)
        try:
            # Held as long as the writer lives: tells an open segment from an orphan (see recover).
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._identity = os.fstat(self._fd)
            self.append(header)
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                os.unlink(self.final_path + _PART)
            raise

    def is_in_place(self) -> bool:
        """Whether the file still has its name: a descriptor goes on taking lines for a file that nobody finds."""
        try:
            found = os.stat(self.final_path + _PART, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(found, self._identity)

    def append(self, line: Line) -> None:
        """Write one line; what does not fit is taken back, so that no half line stays (full disk)."""
        self.append_encoded(encode(line))

    def append_encoded(self, data: bytes) -> None:
        """The same for a line that `encode` made."""
        self._write(data)
        self._digest.update(data)
        self._size += len(data)
        self.lines += 1

    def seal(self) -> str:
        """Append the trailer, flush, rename; return the digest. After an error the segment is open as before."""
        digest = self._digest.hexdigest()
        self._write(encode(trailer(Seal(self.lines, digest, recovered=False))))
        try:
            self._sync(os.fsync)
            os.rename(self.final_path + _PART, self.final_path)
        except OSError:
            self._take_back()
            raise
        self.close()
        _sync_directory(self.final_path)
        return digest

    def flush(self) -> None:
        """Bring what was written to the disk, its name too: bounds what a loss of power takes."""
        self._sync(os.fdatasync)
        if not self._is_named_on_disk:
            _sync_directory(self.final_path)
            self._is_named_on_disk = True

    def close(self) -> None:
        """Leave the segment as it stands: an orphan, for `recover`."""
        with contextlib.suppress(OSError):  # NFS tells here what it could not write, after fsync told it already
            os.close(self._fd)

    def _sync(self, synchronise: Callable[[int], None]) -> None:
        try:
            synchronise(self._fd)
        except OSError:
            # The kernel tells of a lost page once and then forgets it: a later fsync would succeed (fsync(2), NOTES).
            self.is_doubtful = True
            raise

    def _write(self, data: bytes) -> None:
        try:
            if self._is_torn:  # an earlier attempt could not be taken back
                os.ftruncate(self._fd, self._size)
                self._is_torn = False
            _write_whole(self._fd, data, self.final_path)
        except OSError as error:
            self.is_doubtful = self.is_doubtful or error.errno not in _NO_ROOM
            self._take_back()
            raise

    def _take_back(self) -> None:
        """Forget what follows the last whole line; where even that fails, `_write` tries again before it writes."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._is_torn = True


def _write_whole(descriptor: int, data: bytes, path: str) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _make_directories(directory: str) -> None:
    """The node's and the cluster's directory for the owner only; what is above them is the site's."""
    cluster = os.path.dirname(directory)
    os.makedirs(os.path.dirname(cluster), mode=0o755, exist_ok=True)
    for path in (cluster, directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIRECTORY_MODE)


def _sync_directory(path: str) -> None:
    """A name is on disk once its directory is (fsync(2)); file systems that cannot do that need not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def trailer(seal: Seal) -> dict[str, Any]:
    """The last line of a sealed segment."""
    return {"k": "trailer", "lines": seal.lines, "sha256": seal.sha256, "recovered": seal.recovered}


class Recovery(NamedTuple):
    """What `recover` did."""

    sealed: list[str]
    """Paths of the segments it sealed."""
    failed: list[str]
    """What it could not do, file by file: worth another try once there is room again."""


def recover(directory: str) -> Recovery:
    """Seal every orphaned `.part` in `directory` as it stands.

    A torn last line stays, ended by a newline, so that the reader can show it. A `.part` that another process
    holds open is left alone, and so is one of a newer version of the format: its own writer knows how it ends.
    One without a single whole line is removed. One that fails never stops the others.
    """
    sealed, failed = [], []
    for name in sorted(_listdir(directory)):
        if name.endswith(_PART) and NAME.match(name.removesuffix(_PART)):
            path = os.path.join(directory, name)
            try:
                if done := _seal_orphan(path):
                    sealed.append(done)
            except OSError as error:
                failed.append(f"{path}: {error.strerror or error}")
    return Recovery(sealed, failed)


def _listdir(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _seal_orphan(path: str) -> str | None:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        content = _read_all(fd)
        if b"\n" not in content:
            os.unlink(path)
            return None
        if _is_of_a_newer_version(content):
            return None
        if _tail_is_trailer(content) is None:
            _append_trailer(fd, content, path)
        os.fsync(fd)
        final = path.removesuffix(_PART)
        os.rename(path, final)
        _sync_directory(final)
        return final
    finally:
        os.close(fd)


def _is_of_a_newer_version(content: bytes) -> bool:
    try:
        version = json.loads(content[: content.index(b"\n")])["v"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(version, int) and version > VERSION


def _append_trailer(fd: int, content: bytes, path: str) -> None:
    """End a torn last line and seal; with no room for all of it the file stays as it was."""
    end_of_line = b"" if content.endswith(b"\n") else b"\n"
    whole = content + end_of_line
    seal = Seal(whole.count(b"\n"), hashlib.sha256(whole).hexdigest(), recovered=True)
    try:
        _write_whole(fd, end_of_line + encode(trailer(seal)), path)
    except OSError:
        os.ftruncate(fd, len(content))
        raise


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
    except (ValueError, KeyError, TypeError, OverflowError):
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


_HEADER_KEYS: dict[str, tuple[type, ...]] = {
    "v": (int,), "cluster": (str,), "node": (str,), "boot": (str,), "sampler": (str,), "seq": (int,), "zones": (dict,),
}  # fmt: skip
# May be left out or null; where they are there, a reader relies on their type.
_OPTIONAL_HEADER_KEYS: dict[str, tuple[type, ...]] = {
    "t": (str,), "bt": (int,), "interval_s": (int, float), "software": (str,), "prev": (str,), "cpus": (int,),
    "sockets": (int,), "mem_mib": (int,), "cpu_model": (str,), "manager": (str,),
}  # fmt: skip
_ZONE_KEYS: dict[str, tuple[type, ...]] = {"domain": (str,), "used": (bool,)}
_OPTIONAL_ZONE_KEYS: dict[str, tuple[type, ...]] = {"wrap": (int,), "max_uw": (int,), "why": (str,), "method": (str,)}


def _parse_header(path: str, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        if header["k"] != "header":
            raise KeyError("k")
        version = header["v"]
    except (ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{path}:1: expected a header line, found {line[:60]!r} ({error})") from None
    # Before anything else: another version may have other keys.
    if not _has_type(version, (int,)) or not 1 <= version <= VERSION:
        raise SpoolError(
            f"{path}:1: has format version {version!r}, expected 1 to {VERSION}",
            hint="upgrade the server before the nodes",
        )
    wrong = _wrong_key(header, _HEADER_KEYS, _OPTIONAL_HEADER_KEYS)
    if wrong:
        raise SpoolError(f"{path}:1: header key {wrong!r} is missing or has the wrong type")
    for zone, about in header["zones"].items():
        wrong = _wrong_key(about, _ZONE_KEYS, _OPTIONAL_ZONE_KEYS) if isinstance(about, dict) else "zones"
        if wrong:
            raise SpoolError(f"{path}:1: zone {zone!r}: key {wrong!r} is missing or has the wrong type")
    return dict(header)


def _wrong_key(
    found: dict[str, Any], required: Mapping[str, tuple[type, ...]], optional: Mapping[str, tuple[type, ...]]
) -> str | None:
    for key, kinds in required.items():
        if not _has_type(found.get(key), kinds):
            return key
    for key, kinds in optional.items():
        if found.get(key) is not None and not _has_type(found[key], kinds):
            return key
    return None


def _has_type(value: object, kinds: tuple[type, ...]) -> bool:
    """JSON's true is not a number, and a number that does not fit into 64 bits is none that anybody can store."""
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int | float) and not abs(value) < 1 << 63:  # infinity and NaN too
        return False
    return isinstance(value, kinds)


def sealed_segments(directory: str) -> Iterator[str]:
    """Yield the paths of all sealed segments below `directory`, in name order; follows no symbolic link."""
    for base, folders, files in os.walk(directory, followlinks=False):
        folders.sort()
        for name in sorted(files):
            if NAME.match(name):
                yield os.path.join(base, name)


# Confirmation: the collector's word that evidence is safe elsewhere


def confirm(path: str, sha256: str) -> None:
    """Say beside a sealed segment that its content, of this digest, is in a ledger for good; it may then be pruned.

    To be called after the ledger's commit. Repeating it, or being killed at any instant of it, does no harm.
    """
    marker = path + CONFIRMED
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(marker + ".new", flags, FILE_MODE)
    try:
        _write_whole(descriptor, _confirmation(sha256), marker)
    finally:
        os.close(descriptor)
    os.rename(marker + ".new", marker)


def is_confirmed(path: str) -> bool:
    """Whether what stands in the segment now is what the collector confirmed."""
    try:
        with open(path + CONFIRMED, "rb") as file:
            said = file.read(200)
        return said == _confirmation(read_segment(path).sha256)
    except (OSError, SpoolError):
        return False


def _confirmation(sha256: str) -> bytes:
    return b"sha256:" + sha256.encode("ascii") + b"\n"


class Pruned(NamedTuple):
    """What `prune` did."""

    removed: list[str]
    """Paths of the segments that are gone."""
    failed: list[str]
    """What could not be removed, file by file."""
    used_bytes: int
    """What the directory takes of the disk afterwards."""


def prune(directory: str, now_s: float, keep_s: float = ONE_DAY_S) -> Pruned:
    """Remove the sealed segments that are confirmed and were sealed more than `keep_s` seconds ago; no others, ever.

    The segment goes first and its marker then: killed between, what stays is a marker of nothing, removed next time.
    Raises OSError only where the directory itself cannot be read.
    """
    removed, failed, used_bytes = list[str](), list[str](), 0
    for name, found in _regular_files(directory):
        path = os.path.join(directory, name)
        try:
            if _may_go(path, name, found, now_s - keep_s):
                os.unlink(path)
                removed.append(path)
                continue
        except OSError as error:
            failed.append(f"{path}: {error.strerror or error}")
        used_bytes += found.st_blocks * 512
    return Pruned([path for path in removed if NAME.match(os.path.basename(path))], failed, used_bytes)


def _regular_files(directory: str) -> list[tuple[str, os.stat_result]]:
    """In name order: a segment comes before its marker."""
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode):
                        found.append((entry.name, about))
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda file: file[0])


def _may_go(path: str, name: str, found: os.stat_result, before_s: float) -> bool:
    if NAME.match(name):
        return found.st_mtime < before_s and is_confirmed(path)
    segment = name.removesuffix(".new").removesuffix(CONFIRMED)
    is_marker = segment != name and NAME.match(segment) is not None
    return is_marker and not os.path.lexists(os.path.join(os.path.dirname(path), segment))


def default_bound_bytes(directory: str) -> int:
    """What a node's evidence may take unless told otherwise: 5 % of the file system, 2 GiB at most, 64 MiB at least."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory) or "/"
    system = os.statvfs(directory)
    return max(_SMALLEST_BOUND, min(_LARGEST_BOUND, system.f_frsize * system.f_blocks // 20))
