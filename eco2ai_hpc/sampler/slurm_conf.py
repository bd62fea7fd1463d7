"""The few lines of slurm.conf that a node's accounting depends on; reads the file itself, asks no daemon."""

import os

PATHS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/usr/local/etc/slurm.conf")
_HOOKS = "/opt/eco2ai-hpc/share/eco2ai-hpc/prolog_epilog"


def read() -> tuple[str, dict[str, str]] | None:
    """(path, settings by lower-case name) of the first slurm.conf there is: $SLURM_CONF, then the usual places."""
    for path in (os.environ.get("SLURM_CONF", ""), *PATHS):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return path, _settings(file.read())
        except OSError:
            continue
    return None


def _settings(text: str) -> dict[str, str]:
    """The single-valued settings; lines that define nodes and partitions hold blanks and do no harm."""
    settings: dict[str, str] = {}
    for line in text.splitlines():
        key, sign, value = line.partition("#")[0].partition("=")
        if sign:
            settings.setdefault(key.strip().lower(), value.strip())
    return settings


def cluster_name() -> str | None:
    """ClusterName in lower case, as Slurm itself stores it."""
    found = read()
    name = found[1].get("clustername") if found else None
    return name.lower() if name else None


def hints() -> list[dict[str, str]]:
    """What Slurm's own configuration lacks, each with the line to add; nothing without a slurm.conf."""
    found = read()
    if found is None:
        return []
    path, settings = found
    lacking = []
    for hook in ("Prolog", "Epilog"):
        if not settings.get(hook.lower()):
            line = f"{hook}={_HOOKS}/{hook.lower()}.sh    # {path}"
            lacking.append({"what": f"no {hook}: jobs are not marked", "line": line})
    flags = {flag.strip().lower() for flag in settings.get("prologflags", "").split(",")}
    if not flags & {"alloc", "contain", "nohold", "deferbatch", "runinjob"}:
        what = "the prolog waits for a job's first step; some nodes of a job never run it"
        lacking.append({"what": what, "line": f"PrologFlags=Alloc,Contain    # {path}"})
    if "runinjob" in flags:
        what = "RunInJob puts a sampler that the prolog launches into the job"
        lacking.append({"what": what, "line": "ECO2AI_HPC_LAUNCH=systemd    # /etc/default/eco2ai-hpc"})
    gather = settings.get("jobacctgathertype", "")
    if not gather.endswith("cgroup") and not settings.get("proctracktype", "").endswith("cgroup"):
        what = "jobs have no cgroups: their CPU time is unknown"
        lacking.append({"what": what, "line": f"ProctrackType=proctrack/cgroup    # {path}"})
    return lacking
