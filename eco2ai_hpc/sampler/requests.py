"""What may be asked of the sampler at its socket, and by whom.

Everybody for the job that the asking process is in: `mark` (becomes evidence) and `provisional` (its energy so far).
Root: `tick` and `status`. Nobody gets a counter, a node's total or anything about somebody else's job.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from eco2ai_hpc.sampler import jobs, peers
from eco2ai_hpc.sampler.evidence import Evidence
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.sampler.jobs import Run
from eco2ai_hpc.sampler.provisional import Account, Provisional
from eco2ai_hpc.sampler.service import Peer, RequestError
from eco2ai_hpc.units import NS_PER_S

ONCE_NS = NS_PER_S
MARKS_OF_A_RUN = 1000
MARKS_AT_ONCE = 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+-]{0,63}")
_REMEMBERED_USERS = 1024


class Requests:
    """Answers one request at a time; `runs` are those alive, by key."""

    def __init__(
        self,
        procfs: str,
        node: str,
        runs: Mapping[str, Run],
        provisional: Provisional,
        evidence: Evidence,
        on_mark: Callable[[], None],
        root: Mapping[str, Callable[[Moment], dict[str, Any]]],
    ) -> None:
        self._procfs = procfs
        self._node = node
        self._runs = runs
        self._provisional = provisional
        self._evidence = evidence
        self._on_mark = on_mark
        self._root = root
        self._told: dict[int, int] = {}
        self._marks: dict[str, int] = {}
        self._spent: dict[int, tuple[int, int]] = {}

    def answer(self, request: dict[str, Any], peer: Peer, now: Moment) -> dict[str, Any]:
        """Raises RequestError."""
        what = request.get("op")
        if what == "mark":
            return self._mark(request, peer, now)
        if what == "provisional":
            return self._so_far(peer, now)
        if not isinstance(what, str) or what not in self._root:
            raise RequestError("op is none of mark, provisional, tick, status")
        if peer.uid != 0:
            raise RequestError("only root may ask this")
        return self._root[what](now)

    def _run_of(self, peer: Peer) -> Run:
        run = peers.run_of(self._procfs, self._node, peer.pid, peer.uid, self._runs.values())
        if run is None:
            raise RequestError("your process belongs to no job of yours that is recorded here")
        return run

    def _mark(self, request: dict[str, Any], peer: Peer, now: Moment) -> dict[str, Any]:
        name, edge = request.get("name"), request.get("edge")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError("name is 1 to 64 of letters, digits and _ . : / + -")
        if edge not in ("begin", "end"):
            raise RequestError("edge is begin or end")
        self._spend(peer.uid, now)
        run = self._run_of(peer)
        number = self._marks.get(run.key, 0) + 1
        if number > MARKS_OF_A_RUN:
            raise RequestError(f"a job makes at most {MARKS_OF_A_RUN} marks")
        self._marks = {key: count for key, count in self._marks.items() if key in self._runs} | {run.key: number}
        self._evidence.edge(jobs.mark_line(run, name, edge, now), now)
        self._on_mark()
        return {"run": run.key}

    def _spend(self, uid: int, now: Moment) -> None:
        """A user's marks: one a second, and MARKS_AT_ONCE saved up."""
        left, since_ns = self._spent.pop(uid, (MARKS_AT_ONCE, now.boot_ns))
        earned = (now.boot_ns - since_ns) // NS_PER_S
        left, since_ns = min(MARKS_AT_ONCE, left + earned), since_ns + earned * NS_PER_S
        _remember(self._spent, uid, (max(0, left - 1), since_ns))
        if left < 1:
            raise RequestError(f"at most {MARKS_AT_ONCE} marks at once, and one a second")

    def _so_far(self, peer: Peer, now: Moment) -> dict[str, Any]:
        told_ns = self._told.get(peer.uid)
        if told_ns is not None and now.boot_ns - told_ns < ONCE_NS:
            raise RequestError("at most once a second")
        self._told.pop(peer.uid, None)
        _remember(self._told, peer.uid, now.boot_ns)
        run = self._run_of(peer)
        account = self._provisional.accounts.get(run.key) or Account(now.boot_ns, 0)
        return {
            "provisional": True,
            "job": run.mark.job,
            "run": run.key,
            "energy_uj": account.energy_uj,
            "since_utc": _utc(account.since_ns, now),
            "until_utc": _utc(max(self._provisional.at_ns, account.since_ns), now),
            "whole": not run.resumed,
            "note": "an estimate of this node's sampler; the ledger's figure is what counts",
        }


def _remember(memory: dict[int, Any], uid: int, value: Any) -> None:
    """Of the users that asked last; one that is forgotten begins anew."""
    memory[uid] = value
    if len(memory) > _REMEMBERED_USERS:
        del memory[next(iter(memory))]


def _utc(boot_ns: int, now: Moment) -> str:
    return Moment(now.wall_ns - (now.boot_ns - boot_ns), boot_ns).utc()
