"""The node's socket: lines of JSON from anybody on the node, answered in bounded time.

When somebody wants something the loop calls `serve`, after it has done what is due. A round reads at most 4 KiB and
answers at most one line of each of at most 64 clients, nothing waits for a client, and there are at most 20 rounds a
second: whatever clients do, the next tick is a few milliseconds away. A client that does not read its answer, sends a
longer line, or says nothing whole for 10 s is dropped.
"""

import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.units import NS_PER_S

NAME = "sampler.sock"
MAX_CLIENTS = 64
MAX_CLIENTS_OF_A_USER = 8
MAX_LINE_BYTES = 4096
PATIENCE_NS = 10 * NS_PER_S
ROUND_NS = NS_PER_S // 20
_ACCEPTS_A_ROUND = 32
_CREDENTIALS = struct.Struct("iII")
_LONGEST_PATH = 107


class Peer(NamedTuple):
    """Who is at the other end, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int


Answer = Callable[[dict[str, Any], Peer, Moment], dict[str, Any]]


class RequestError(Exception):
    """The request cannot be answered; the message is for its sender."""


class _Client:
    __slots__ = ("heard_ns", "peer", "received", "socket")

    def __init__(self, connection: socket.socket, peer: Peer, now: Moment) -> None:
        self.socket = connection
        self.peer = peer
        self.received = b""
        self.heard_ns = now.boot_ns


class Service:
    """Listens at RUN_DIR/sampler.sock. Readable, for poll(2), when somebody wants something."""

    def __init__(self, run_dir: str, answer: Answer) -> None:
        self._answer = answer
        self._path = os.path.join(run_dir, NAME)
        self._clients: dict[int, _Client] = {}
        self._served_ns = 0
        self._ready = select.epoll()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _bind(self._listener, self._path)
            self._listener.listen(MAX_CLIENTS)
        except OSError:
            self.close()
            raise
        self._ready.register(self._listener, select.EPOLLIN)

    def fileno(self) -> int:
        return self._ready.fileno()

    @property
    def clients(self) -> int:
        return len(self._clients)

    def rests_ns(self, now: Moment) -> int:
        """How long until the next round may be; the loop does not look at `fileno` meanwhile."""
        return max(0, min(self._served_ns + ROUND_NS - now.boot_ns, ROUND_NS))

    def serve(self, now: Moment) -> None:
        """One round."""
        self._served_ns = now.boot_ns
        for descriptor, _events in self._ready.poll(0, MAX_CLIENTS + 1):
            client = self._clients.get(descriptor)
            if client is not None:
                self._hear(client, now)
            elif descriptor == self._listener.fileno():
                self._accept(now)

    def drop_silent(self, now: Moment) -> None:
        """Let go of those who have said nothing whole for too long."""
        for client in [one for one in self._clients.values() if now.boot_ns - one.heard_ns > PATIENCE_NS]:
            self._drop(client)

    def _accept(self, now: Moment) -> None:
        for _ in range(_ACCEPTS_A_ROUND):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody is left, or we are out of descriptors
                return
            connection.setblocking(False)
            pid, uid, _gid = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            self._admit(_Client(connection, Peer(pid, uid), now))

    def _admit(self, client: _Client) -> None:
        of_user = [one for one in self._clients.values() if one.peer.uid == client.peer.uid]
        if len(of_user) >= MAX_CLIENTS_OF_A_USER:
            self._reply(client, {"ok": False, "error": "too many connections of this user"})
            client.socket.close()
            return
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(min(self._clients.values(), key=lambda one: one.heard_ns))
        self._clients[client.socket.fileno()] = client
        self._ready.register(client.socket, select.EPOLLIN)

    def _hear(self, client: _Client, now: Moment) -> None:
        """Read as far as the first line goes, and answer it; later lines stay with the kernel for the next rounds."""
        try:
            chunk = client.socket.recv(MAX_LINE_BYTES + 1 - len(client.received), socket.MSG_PEEK)
            chunk = client.socket.recv(chunk.find(b"\n") + 1 or len(chunk)) if chunk else b""
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        client.received += chunk
        if client.received.endswith(b"\n"):
            line, client.received, client.heard_ns = client.received, b"", now.boot_ns
            if not self._reply(client, self._answered(line, client.peer, now)):
                self._drop(client)
        elif len(client.received) > MAX_LINE_BYTES:
            self._reply(client, {"ok": False, "error": f"a line has at most {MAX_LINE_BYTES} bytes"})
            self._drop(client)
        elif not chunk:
            self._drop(client)

    def _answered(self, line: bytes, peer: Peer, now: Moment) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"ok": False, "error": "not a line of JSON"}
        if not isinstance(request, dict):
            return {"ok": False, "error": "not a JSON object"}
        try:
            return {"ok": True, **self._answer(request, peer, now)}
        except RequestError as error:
            return {"ok": False, "error": str(error)}

    def _reply(self, client: _Client, answer: dict[str, Any]) -> bool:
        """Whether the whole answer went out at once."""
        data = json.dumps(answer, separators=(",", ":")).encode("ascii") + b"\n"
        try:
            return client.socket.send(data, socket.MSG_NOSIGNAL) == len(data)
        except OSError:
            return False

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        with contextlib.suppress(OSError, ValueError):
            self._ready.unregister(client.socket)
        client.socket.close()

    def close(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        self._listener.close()
        self._ready.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _bind(listener: socket.socket, path: str) -> None:
    """Take the place of a socket that a killed sampler left; everybody may connect."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    directory = None
    place = path
    if len(os.fsencode(path)) > _LONGEST_PATH:
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        place = f"/proc/self/fd/{directory}/{NAME}"
    try:
        listener.bind(place)
        os.chmod(path, 0o666)  # noqa: S103 (who asks is known from the kernel)
    finally:
        if directory is not None:
            os.close(directory)
