"""One sampler per node: the lock, the pid file, and becoming a daemon that outlives the prolog which launched it."""

import contextlib
import errno
import fcntl
import os

from eco2ai_hpc.errors import SURROUNDINGS

COMM = "eco2ai-sampler"
_PID_FILE = "sampler.pid"
_LOCK_FILE = "sampler.lock"


def detach() -> int | None:
    """Fork; the parent waits until the child is ready, and exits with its status.

    Returns, in the child only, the descriptor to pass to `ready`. The child reports after setsid(): a child that slurmd
    can still kill with the prolog's process group would not survive every launch (facts: 3 of 15 lost).
    """
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(write_end)
        os._exit(_wait_for_child(read_end))
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    _redirect()
    # slurmd's pipe must not be held by anyone who stays.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != write_end:
            with contextlib.suppress(OSError):
                os.close(int(name))
    return write_end


def _wait_for_child(read_end: int) -> int:
    """Print what the child could not, and return its exit status."""
    said = b""
    while chunk := os.read(read_end, 4096):
        said += chunk
    if not said:
        said = bytes([SURROUNDINGS]) + b"error: the sampler died at its start"
    if len(said) > 1:
        with contextlib.suppress(OSError):
            os.write(2, said[1:] + b"\n")
    return said[0]


def _redirect() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def ready(descriptor: int | None, status: int = 0, message: str = "") -> None:
    """Tell the waiting parent how the start went; a parent that was killed meanwhile need not know."""
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, bytes([status]) + message.encode("utf-8", "surrogateescape"))
        os.close(descriptor)


def take_lock(run_dir: str) -> bool:
    """Become the node's sampler; False where there is one already. The lock lives as long as the process."""
    make_run_directory(run_dir)
    descriptor = os.open(os.path.join(run_dir, _LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    _name_process()
    _write_pid(run_dir)
    return True


def make_run_directory(run_dir: str) -> None:
    """Users reach the sampler's socket in it, whatever the umask is."""
    if not os.path.isdir(run_dir):
        os.makedirs(run_dir, mode=0o755, exist_ok=True)
        os.chmod(run_dir, 0o755)  # noqa: S103 (marks and jobs below it are root's)


def _name_process() -> None:
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(COMM)
    except OSError:
        return  # a name for people only


def _write_pid(run_dir: str) -> None:
    """`PID STARTTIME`: the start time tells a live sampler from a recycled pid without a fork (hooks)."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        started = file.read().rpartition(")")[2].split()[19]
    path = os.path.join(run_dir, _PID_FILE)
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {started}\n")
    os.chmod(path + ".new", 0o644)
    os.rename(path + ".new", path)


def remove_pid(run_dir: str) -> None:
    """At an orderly end; a stale file does no harm."""
    try:
        os.unlink(os.path.join(run_dir, _PID_FILE))
    except FileNotFoundError:
        return
