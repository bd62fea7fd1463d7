"""What this node can measure, zone by zone, and what would be needed for more."""

import json
import os
from typing import Any

from eco2ai_hpc import meters
from eco2ai_hpc.model import Roots
from eco2ai_hpc.sampler import cgroups
from eco2ai_hpc.sampler.host import Host


def examine(roots: Roots, options: meters.Options) -> dict[str, Any]:
    """Everything `probe --json` prints; keys are in the contract's form, additions are free."""
    about = Host(roots).description
    return {
        "schema": "eco2ai-hpc/probe/1",
        "cpu_model": about.cpu_model,
        "cpus": about.cpus,
        "sockets": about.sockets,
        "mem_mib": about.mem_mib,
        "cgroup": cgroups.kind(roots),
        "root": os.geteuid() == 0,
        "meters": [_meter(outcome) for outcome in meters.open_all(roots, options)],
    }


def _meter(outcome: meters.Outcome) -> dict[str, Any]:
    described: dict[str, Any] = {"name": outcome.name, "status": outcome.status, "reason": outcome.reason, "zones": []}
    if outcome.meter is None:
        return described
    counters: dict[str, int] = {}
    errors: dict[str, str] = {}
    outcome.meter.read(counters, errors)
    for zone in outcome.meter.zones:
        described["zones"].append(
            {
                "zone": zone.key,
                "domain": zone.domain,
                "counter_uj": counters.get(zone.key),
                "wrap_uj": zone.wrap_uj,
                "max_uw": zone.max_uw,
                "used": zone.used,
                "why": zone.why,
                "error": errors.get(zone.key),
            }
        )
    outcome.meter.close()
    return described


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2)


def as_text(found: dict[str, Any]) -> str:
    """The same for a person, one line a zone."""
    lines = [
        f"{found['cpu_model'] or 'unknown CPU'}: {found['cpus']} logical CPUs, {found['sockets']} socket(s), "
        f"cgroup {found['cgroup']}"
    ]
    for meter in found["meters"]:
        reason = f": {meter['reason']}" if meter["reason"] else ""
        lines.append(f"{meter['name']:<8} {meter['status']}{reason}")
        for zone in meter["zones"]:
            sign = "+" if zone["used"] else "-"
            value = zone["error"] if zone["counter_uj"] is None else f"{zone['counter_uj']} uJ"
            lines.append(f"  {sign} {zone['zone']:<28} {value:<24} {zone['why']}")
    return "\n".join(lines)
