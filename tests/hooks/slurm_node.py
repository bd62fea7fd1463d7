"""Runs the real hooks as slurmd does, with nothing mocked: real shells, mounts, processes and signals."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[2] / "prolog_epilog"
FIXTURES = Path(__file__).parent / "fixtures"
BOUND_SECONDS = 2.0
SHELLS = ("dash", "bash")  # /bin/sh of Debian and of Red Hat

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts file systems")


class Run:
    """One hook being run: own process group, one pipe as stdout and stderr, stdin /dev/null, nothing but `env`."""

    def __init__(self, argv: list[str], env: Mapping[bytes, bytes], **options) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            **options,
        )

    def finish(self) -> float:
        """Wait as slurmd does, for the pipe's end, then for the hook. Checks what every run keeps; returns seconds."""
        output, _ = self.process.communicate(timeout=20)
        seconds = time.monotonic() - self.began
        assert self.process.returncode == 0
        assert output == b""
        assert seconds < BOUND_SECONDS
        return seconds

    def end_group(self) -> None:
        """What slurmd does to the process group of every hook that has ended."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            time.sleep(0.01)


class Node:
    """A node's run directory, and its hooks."""

    def __init__(self, directory: Path, shell: str) -> None:
        self.directory = directory
        self.run_dir = directory / "run"
        self.spool_dir = directory / "spool"
        self.hooks = HOOKS
        self.wrap: list[str] = []
        self.env: dict[str, str] = {
            "ECO2AI_HPC_RUN_DIR": str(self.run_dir),
            "ECO2AI_HPC_SPOOL_DIR": str(self.spool_dir),
            "ECO2AI_HPC_SAMPLER": str(directory / "no-sampler-here"),
        }
        self.sh = directory / "sh"  # bash becomes POSIX's when it is called so
        self.sh.symlink_to(shutil.which(shell))

    def start(self, hook: str, env: Mapping = {}, **options) -> Run:
        argv = [*self.wrap, str(self.sh), str(self.hooks / hook)]
        merged = {os.fsencode(name): os.fsencode(value) for name, value in {**self.env, **env}.items()}
        return Run(argv, merged, **options)

    def run(self, hook: str, env: Mapping = {}, **options) -> float:
        """Run a hook to its end, and see that nothing of it stays."""
        run = self.start(hook, env, **options)
        seconds = run.finish()
        eventually(lambda: not members(run.process.pid), "a process of the hook stays")
        return seconds

    def prolog(self, env: Mapping = {}, **options) -> float:
        return self.run("prolog.sh", env, **options)

    def epilog(self, env: Mapping = {}, **options) -> float:
        return self.run("epilog.sh", env, **options)

    def pretend_sampler_runs(self, pid: int | None = None) -> None:
        """Write the pid file of a living process, by default this one."""
        self.run_dir.mkdir(exist_ok=True)
        pid = pid or os.getpid()
        (self.run_dir / "sampler.pid").write_text(f"{pid} {stat_fields(pid)[19]}\n")

    def marks(self) -> dict[str, dict[bytes, bytes]]:
        """The marks by file name without the hook's pid; none may be torn, none left half done."""
        found = {}
        for path in sorted((self.run_dir / "marks").iterdir()):
            edge, job, pid = path.name.split(".")
            assert edge in ("start", "end") and pid.isdigit()
            found[f"{edge}.{job}"] = read_mark(path)
        return found

    def mark(self, name: str) -> dict[bytes, bytes]:
        marks = self.marks()
        assert list(marks) == [name]
        return marks[name]


def read_mark(path: Path) -> dict[bytes, bytes]:
    """Slurm's variables in one mark, once its frame is seen to be right."""
    *records, end = path.read_bytes().split(b"\0")
    assert end == b""
    assert records[0] == b"mark=1" and records[-1] == b"complete=1"
    assert records[1] == b"edge=" + path.name.split(".")[0].encode()
    name, _, uptime = records[2].partition(b"=")
    assert name == b"uptime" and 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) - float(uptime) < 60
    return dict(record.split(b"=", 1) for record in records[3:-1])


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on (field 3)."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, process_group = stat_fields(int(entry.name))[:3]
            if int(process_group) == group and state != "Z":
                found.append(int(entry.name))
    return found


def eventually(holds, otherwise: str, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def recorded(name: str) -> dict[str, str]:
    """The environment that slurmd gave a hook, as recorded on a real cluster."""
    return dict(line.split("=", 1) for line in (FIXTURES / f"{name}.env").read_text().splitlines())


def command(*words: str | Path) -> None:
    """Run one command of the system; where it cannot work, the test cannot either."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"{words[0]} cannot work here: {result.stderr.strip()}")


def in_mount_namespace(preparation: str) -> list[str]:
    """Words that run the words after them with mounts of their own."""
    command("unshare", "--mount", "sh", "-c", preparation)
    return [shutil.which("unshare"), "--mount", "sh", "-c", f'{preparation} && exec "$@"', "sh"]


@contextlib.contextmanager
def mounted(directory: Path, *arguments: str | Path) -> Iterator[Path]:
    directory.mkdir(exist_ok=True)
    command("mount", *arguments, directory)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextlib.contextmanager
def frozen(directory: Path, image: Path) -> Iterator[Path]:
    """An ext4 whose writers sleep uninterruptibly, like those of a disk that has gone away, until this context ends."""
    with image.open("wb") as file:
        file.truncate(4 << 20)
    command("mkfs.ext4", "-q", "-F", "-O", "^has_journal", image)
    with mounted(directory, "-o", "loop", image):
        (directory / "marks").mkdir()
        command("fsfreeze", "--freeze", directory)
        try:
            yield directory
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", directory], check=True)


@contextlib.contextmanager
def silent(directory: Path) -> Iterator[Path]:
    """A FUSE file system whose server never answers: as on a dead NFS, even a look at a file name hangs."""
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    directory.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if libc.mount(b"silent", os.fsencode(directory), b"fuse", 0, options):
            pytest.skip(f"cannot mount FUSE: {os.strerror(ctypes.get_errno())}")
        try:
            yield directory
        finally:
            libc.umount2(os.fsencode(directory), 2)  # MNT_DETACH
    finally:
        os.close(server)
