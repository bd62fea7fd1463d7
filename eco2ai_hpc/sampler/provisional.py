"""What a running job has used so far, by this sampler's own bookkeeping: an estimate for its user, never evidence.

At each tick the energy since the last is split over the runs that were alive meanwhile, by the ledger's rule with an
idle power of 0 (docs: attribution): a run's part of CPU and memory energy is that of the node's busy time which is
its own; of the busy time that is no run's it takes the part of the CPUs it was given. A GPU goes to its holders.
The ledger knows more (idle power, Slurm's records, the site's factors) and is what counts.
"""

from collections.abc import Iterable, Mapping

from eco2ai_hpc.model import Zone
from eco2ai_hpc.sampler.jobs import Run

_COMPONENTS = ("package", "dram", "gpu")


class Account:
    """One run's."""

    __slots__ = ("cpu_us", "energy_uj", "since_ns")

    def __init__(self, since_ns: int, cpu_us: int) -> None:
        self.since_ns = since_ns
        """Of its first tick, CLOCK_BOOTTIME: what was before is not in the figure."""
        self.cpu_us = cpu_us
        self.energy_uj = 0


class Provisional:
    """All runs' accounts, brought forward at each tick."""

    def __init__(self, cpus: int) -> None:
        self.accounts: dict[str, Account] = {}
        self.at_ns = 0
        """Of the last tick."""
        self._cpus = cpus
        self._counters: dict[str, int] = {}
        self._busy_us: int | None = None

    def tick(
        self, boot_ns: int, zones: Iterable[Zone], counters: Mapping[str, int], busy_us: int | None, runs: Iterable[Run]
    ) -> None:
        """Share out what was used since the last tick. A run's first tick opens its account."""
        pools, gpus = self._used_uj(zones, counters)
        self._counters |= counters
        present = [(run, self.accounts.get(run.key)) for run in runs]
        known = [(run, account) for run, account in present if account is not None]
        if known:
            self._share_node(pools, busy_us, known)
            self._share_gpus(gpus, known)
        self.accounts = {run.key: account or Account(boot_ns, run.cpu_us or 0) for run, account in present}
        self._busy_us, self.at_ns = busy_us, boot_ns

    def _used_uj(self, zones: Iterable[Zone], counters: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
        """Energy since the last tick by domain, and by GPU; a counter that was not read comes with the next tick."""
        pools: dict[str, int] = {}
        gpus: dict[str, int] = {}
        for zone in zones:
            used_uj = self._difference_uj(zone, counters) if zone.used else None
            if used_uj is None:
                continue
            pools[zone.domain] = pools.get(zone.domain, 0) + used_uj
            if zone.domain == "gpu":
                board = zone.key.partition(":")[2].partition("#")[0]
                gpus[board] = gpus.get(board, 0) + used_uj
        if "node" in pools:
            pools["rest"] = pools["node"] - sum(pools.get(domain, 0) for domain in _COMPONENTS)
        return pools, gpus

    def _difference_uj(self, zone: Zone, counters: Mapping[str, int]) -> int | None:
        before, now = self._counters.get(zone.key), counters.get(zone.key)
        if before is None or now is None:
            return None
        if now >= before:
            return now - before
        return now - before + zone.wrap_uj if zone.wrap_uj and zone.wrap_uj > before else None

    def _share_node(self, pools: Mapping[str, int], busy_us: int | None, known: list[tuple[Run, Account]]) -> None:
        cpu_uj = pools.get("package", 0) + pools.get("dram", 0)
        rest_uj = pools.get("rest", 0)
        own_us = {run.key: max(0, (run.cpu_us or 0) - account.cpu_us) for run, account in known}
        all_us = sum(own_us.values())
        if busy_us is not None and self._busy_us is not None:
            all_us = max(all_us, busy_us - self._busy_us)
        system_us = all_us - sum(own_us.values())
        given = {run.key: run.cpus(self._cpus) for run, _ in known}
        held = max(self._cpus, sum(given.values()))
        for run, account in known:
            account.energy_uj += rest_uj * given[run.key] // held
            if all_us:
                part_us = own_us[run.key] * held + system_us * given[run.key]
                account.energy_uj += cpu_uj * part_us // (all_us * held)
            else:
                account.energy_uj += cpu_uj * given[run.key] // held
            account.cpu_us += own_us[run.key]

    def _share_gpus(self, gpus: Mapping[str, int], known: list[tuple[Run, Account]]) -> None:
        """A board to its holder; several holders (MIG, MPS, shards) share it evenly."""
        holders: dict[str, list[Account]] = {}
        for run, account in known:
            for board in {gpu.rpartition("@")[2] for gpu in run.gpus}:
                holders.setdefault(board, []).append(account)
        for board, used_uj in gpus.items():
            for account in holders.get(board, []):
                account.energy_uj += used_uj // len(holders[board])
