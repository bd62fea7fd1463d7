"""The node's open meters as one: what they count now, their readings, and which devices a job was given."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from eco2ai_hpc import meters
from eco2ai_hpc.model import Zone
from eco2ai_hpc.sampler.host import Moment
from eco2ai_hpc.units import NS_PER_S


class Instruments:
    """All meters that work on this node."""

    def __init__(self, opened: Sequence[meters.Outcome]) -> None:
        self._opened = opened
        self._meters = [outcome.meter for outcome in opened if outcome.meter]
        self._offered = self._offers()
        self._next_poll_ns: dict[int, int] = {}
        self.zones = meters.counting_zones(opened)

    def _offers(self) -> list[tuple[Zone, ...]]:
        return [meter.zones for meter in self._meters]

    def has_changed(self) -> bool:
        """Whether zones came or went with the last reading; `zones` are then the new ones."""
        offered = self._offers()
        if offered == self._offered:
            return False
        before = self.zones
        self._offered, self.zones = offered, meters.counting_zones(self._opened)
        return self.zones != before

    def described(self) -> dict[str, dict[str, Any]]:
        """The header's zones."""
        return {
            zone.key: {
                "domain": zone.domain,
                "wrap": zone.wrap_uj,
                "max_uw": zone.max_uw,
                "used": zone.used,
                "why": zone.why,
                "method": zone.method,
            }
            for zone in self.zones
        }

    def read(self, counters: dict[str, int], errors: dict[str, str]) -> None:
        for meter in self._meters:
            meter.read(counters, errors)

    def poll(self, now: Moment) -> None:
        """Let those that integrate power look at it, each about as often as it wants."""
        for number, meter in enumerate(self._meters):
            poll_s = getattr(meter, "poll_s", None)
            if poll_s is None:
                self._next_poll_ns.pop(number, None)
            elif now.boot_ns >= self._next_poll_ns.get(number, 0):
                meter.poll()  # type: ignore[attr-defined]
                self._next_poll_ns[number] = now.boot_ns + round(poll_s * NS_PER_S)

    def next_poll_ns(self) -> int | None:
        return min(self._next_poll_ns.values(), default=None)

    def devices_of(self, env: Mapping[str, str]) -> tuple[str, ...]:
        """The devices that a job was given, by the names that their zones have."""
        found: list[str] = []
        for meter in self._meters:
            name_devices = getattr(meter, "devices_of", None)
            if name_devices is not None:
                with contextlib.suppress(OSError, ValueError, KeyError):  # a mark may say anything
                    found += name_devices(env)
        return tuple(found)

    def close(self) -> None:
        for meter in self._meters:
            meter.close()
