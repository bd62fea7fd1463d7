"""What this node can measure, zone by zone; what is missing, and the exact line that would enable it."""

import json
import os
from typing import Any

from eco2ai_hpc import meters
from eco2ai_hpc.model import Roots, Zone
from eco2ai_hpc.sampler import cgroups, slurm_conf
from eco2ai_hpc.sampler.host import Host


def examine(roots: Roots, options: meters.Options) -> dict[str, Any]:
    """Everything `probe --json` prints; keys are in the contract's form, additions are free."""
    about = Host(roots).description
    outcomes = meters.open_all(roots, options)
    counting = {zone.key: zone for zone in meters.counting_zones(outcomes)}
    found = {
        "schema": "eco2ai-hpc/probe/1",
        "cpu_model": about.cpu_model,
        "cpus": about.cpus,
        "sockets": about.sockets,
        "mem_mib": about.mem_mib,
        "cgroup": cgroups.kind(roots),
        "root": os.geteuid() == 0,
        "meters": [_meter(outcome, counting) for outcome in outcomes],
    }
    found["hints"] = _hints(found) + slurm_conf.hints()
    return found


def _meter(outcome: meters.Outcome, counting: dict[str, Zone]) -> dict[str, Any]:
    described: dict[str, Any] = {"name": outcome.name, "status": outcome.status, "reason": outcome.reason, "zones": []}
    if outcome.meter is None:
        return described
    counters: dict[str, int] = {}
    errors: dict[str, str] = {}
    outcome.meter.read(counters, errors)
    for zone in outcome.meter.zones:
        judged = counting.get(zone.key, zone)
        described["zones"].append(
            {
                "zone": zone.key,
                "domain": zone.domain,
                "counter_uj": counters.get(zone.key),
                "wrap_uj": zone.wrap_uj,
                "max_uw": zone.max_uw,
                "method": zone.method,
                "used": judged.used,
                "why": judged.why,
                "error": errors.get(zone.key),
            }
        )
    outcome.meter.close()
    return described


def _hints(found: dict[str, Any]) -> list[dict[str, str]]:
    """What would be needed for more, each with the line to type."""
    hints = []
    if not found["root"]:
        hints.append({"what": "counters are readable by root only", "line": "sudo eco2ai-sampler probe"})
    status = {meter["name"]: meter["status"] for meter in found["meters"]}
    if status.get("rapl") == "absent" and status.get("cray_pm") != "works":
        what = "no CPU energy counter (on a virtual machine there is none)"
        hints.append({"what": what, "line": "modprobe intel_rapl_common intel_rapl_msr"})
    if status.get("nvml") == "absent" and os.path.exists("/dev/nvidia0"):
        hints.append({"what": "a GPU, but its energy is not read", "line": "pip install 'eco2ai-hpc[gpu]'"})
    if found["cgroup"] == "none":
        what = "no job cgroups: CPU time per job is unknown"
        hints.append({"what": what, "line": "ProctrackType=proctrack/cgroup    # slurm.conf"})
    if "works" not in status.values():
        hints.append({"what": "nothing can be measured here", "line": "eco2ai-sampler run --tdp-w WATTS    # modelled"})
    return hints


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
            lines.append(f"  {sign} {zone['zone']:<28} {value or 'no value':<24} {zone['why']}")
    if found["hints"]:
        lines.append("for more:")
        lines += [f"  {hint['what']}\n    {hint['line']}" for hint in found["hints"]]
    return "\n".join(lines)
