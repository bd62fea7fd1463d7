"""A thread for what may hang: a disk that does not answer must not keep anybody from reading counters.

A process that waits for a frozen file system or a dead NFS server cannot be interrupted. Only the thread waits then.
"""

import threading
import time
from collections.abc import Callable

from eco2ai_hpc.errors import ConfigError

PATIENCE_S = 1.0
"""How long the caller waits for one action at most."""
_IMPATIENT_S = 10.0
_LITTLE_S = 0.02


class Worker:
    """Does one thing at a time; while it is busy, nothing else is begun, and whatever it uses is its own.

    `owner` (uid, gid): the thread acts upon files as this user, since on a root-squashed file system root may not.
    The rest of the process stays root: identities for file access are each thread's own (setfsuid(2)).
    """

    def __init__(self, owner: tuple[int, int] | None = None, patience_s: float = PATIENCE_S) -> None:
        self._owner = owner
        self._patience_s = patience_s
        self._idle = threading.Event()
        self._idle.set()
        self._given = threading.Semaphore(0)
        self._action: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._impatient_until_s = 0.0

    def do(self, action: Callable[[], None]) -> bool:
        """Begin it unless busy; returns whether it is done, after a bounded wait.

        After a wait of half the patience further calls hardly wait for a while: many lines are not late one by one.
        """
        if not self.is_idle():
            return False
        self._idle.clear()
        self._action = action
        if self._thread is None:  # not before: a daemon forks after it was configured
            self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
            self._thread.start()
        self._given.release()
        began_s = time.monotonic()
        self._idle.wait(_LITTLE_S if began_s < self._impatient_until_s else self._patience_s)
        if time.monotonic() - began_s > self._patience_s / 2:
            self._impatient_until_s = time.monotonic() + _IMPATIENT_S
        return self.is_idle()

    def end(self) -> None:
        """Let the thread go, if it is idle; a later action would start another."""
        if self._thread is not None and self.is_idle():
            self._action = self._thread = None
            self._given.release()

    def is_idle(self) -> bool:
        """Whether the last action is over; raises what it raised, once."""
        return self.wait(0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is."""
        if not self._idle.wait(timeout_s):
            return False
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True

    def _work(self) -> None:
        is_owner = self._owner is None
        while True:
            self._given.acquire()
            if self._action is None:
                return
            try:
                if not is_owner and self._owner is not None:
                    become(*self._owner)
                    is_owner = True
                self._action()
            except BaseException as error:  # noqa: BLE001 (handed to the caller)
                self._error = error
            self._idle.set()


def owner_of(user: str | None) -> tuple[int, int] | None:
    """The uid and gid of a user; None for none. Raises ConfigError where there is no such user."""
    if not user:
        return None
    # Only here: most samplers do not pay for it.
    import pwd

    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"there is no user {user!r} on this node", hint="--spool-user NAME owns the spool") from None
    return found.pw_uid, found.pw_gid


def become(uid: int, gid: int) -> None:
    """Act upon files as this user, in this thread only; root's privileges over files go with it (credentials(7)).

    Raises PermissionError where that is not allowed: it needs CAP_SETUID and CAP_SETGID.
    """
    # Only here, too.
    import ctypes

    libc = ctypes.CDLL(None)
    for change, number in ((libc.setfsgid, gid), (libc.setfsuid, uid)):
        change(number)
        if change(-1) != number:  # these calls report no errors: an impossible id asks for the present one
            raise PermissionError(1, f"cannot act as uid {uid}, gid {gid} upon the spool: CAP_SETUID, CAP_SETGID")
