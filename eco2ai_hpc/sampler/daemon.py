"""One sampler per node: the lock, the pid file, and becoming a daemon that outlives the prolog which launched it."""

import errno
import fcntl
import os

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
        status = os.read(read_end, 1)
        os._exit(status[0] if status else 4)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    _redirect()
    # slurmd's pipe must not be held by anyone who stays.
    os.closerange(3, read_end)
    os.closerange(read_end, write_end)
    os.closerange(write_end + 1, 1024)
    return write_end


def _redirect() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def ready(descriptor: int | None, status: int = 0) -> None:
    """Tell the waiting parent how the start went."""
    if descriptor is not None:
        os.write(descriptor, bytes([status]))
        os.close(descriptor)


def take_lock(run_dir: str) -> bool:
    """Become the node's sampler; False where there is one already. The lock lives as long as the process."""
    os.makedirs(run_dir, mode=0o755, exist_ok=True)
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
