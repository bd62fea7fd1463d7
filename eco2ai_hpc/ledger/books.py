"""What is not node evidence: job records, node capacities, regions, factors, calibrations."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256

from eco2ai_hpc.errors import BadInputError
from eco2ai_hpc.ledger.connection import Ledger, Row, passing_file, sql_text
from eco2ai_hpc.ledger.load import utc_now
from eco2ai_hpc.model import Factor, FactorSet, NodeSpec, SlurmJob

_EPOCH = datetime(1970, 1, 1)
# Where a record was read is not part of what it says: the same record from another file is no new version.
_NOT_CONTENT = ("source", "line")


def add_jobs(ledger: Ledger, jobs: Iterable[tuple[SlurmJob, list[str]]]) -> Row:
    """Load records with their expanded nodes; a changed one becomes a new version.

    Returns records, changed, from_utc, to_utc (the time that the records cover). Memory stays bounded: the records go
    through a file.
    """
    with passing_file(_record(job, nodes) for job, nodes in jobs) as (path, _), ledger.transaction():
        ledger.run(sql_text("load", "incoming_job.sql"), {"file": path, "now": utc_now()})
        ledger.run_file("load", "jobs.sql")
        return ledger.rows(sql_text("load", "job_summary.sql"))[0]


def _record(job: SlurmJob, nodes: list[str]) -> Row:
    record: Row = job._asdict()
    content = {key: value for key, value in record.items() if key not in _NOT_CONTENT}
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return record | {"expanded_nodes": nodes, "digest": digest}


def add_coverage(ledger: Ledger, cluster: str, from_s: int, to_s: int, source: str) -> None:
    """Remember for which time Slurm's records are in."""
    times = [datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None) for seconds in (from_s, to_s)]
    columns = ("cluster", "from_utc", "to_utc", "source", "loaded_at_utc")
    ledger.insert("slurm_coverage", columns, [(cluster, *times, source, utc_now())])


def add_node_specs(ledger: Ledger, cluster: str, specs: Sequence[NodeSpec]) -> None:
    """A capacity that differs from the last known one holds from now on; the first one holds for all time before."""
    last = {row["node"]: row for row in ledger.rows(sql_text("load", "last_node_spec.sql"), {"cluster": cluster})}
    now = utc_now()
    rows = []
    for spec in specs:
        known = last.get(spec.node)
        if known is None or (known["cpus"], known["memory_bytes"]) != (spec.cpus, spec.memory_bytes):
            rows.append((cluster, spec.node, now, spec.cpus, spec.memory_bytes, spec.gpus, spec.source))
    columns = ("cluster", "node", "valid_from_utc", "cpus", "memory_bytes", "gpus", "source")
    ledger.insert("node_spec", columns, rows)


def add_factors(ledger: Ledger, about: FactorSet, factors: Sequence[Factor]) -> None:
    """Load a factor set once; raises BadInputError where a set of that id has other content already."""
    known = ledger.rows(sql_text("load", "factor_digest.sql"), {"factor_set": about.factor_set})
    if known and known[0]["digest"] != about.digest:
        raise BadInputError(
            f"the factor set {about.factor_set} is in the ledger with other content ({known[0]['digest']})",
            hint="a factor set is never edited: give the new file a new id",
        )
    if known:
        return
    with ledger.transaction():
        ledger.insert("factor_set", (*FactorSet._fields, "loaded_at_utc"), [(*about, utc_now())])
        columns = ("factor_set", "slot_at_utc", *Factor._fields)
        ledger.insert("intensity", columns, [(about.factor_set, _EPOCH, *factor) for factor in factors])


def set_regions(
    ledger: Ledger,
    regions: Sequence[tuple[str, str, str, str, float | None]],
    node_regions: Sequence[tuple[str, str, str]],
) -> None:
    """Replace what the configuration says: (region, grid zone, time zone, set, pue) and (cluster, node, region)."""
    with ledger.transaction():
        ledger.run_file("load", "clear_regions.sql")
        ledger.insert("region", ("region", "grid_zone", "time_zone", "factor_set"), [r[:4] for r in regions])
        ledger.insert("pue", ("region", "from_utc", "pue"), [(r[0], _EPOCH, r[4] or 1.0) for r in regions])
        ledger.insert("node_region", ("cluster", "node", "region"), node_regions)


def nodes(ledger: Ledger) -> list[tuple[str, str]]:
    """Every (cluster, node) with evidence."""
    return [(row["cluster"], row["node"]) for row in ledger.rows(sql_text("load", "nodes.sql"))]


def calibrate(ledger: Ledger) -> int:
    """Give each counter without any calibration one from its empty intervals, where there are enough."""
    with ledger.transaction():
        before = ledger.rows(sql_text("load", "count_calibrations.sql"))[0]["n"]
        ledger.run_file("load", "calibrate.sql")
        after = ledger.rows(sql_text("load", "count_calibrations.sql"))[0]["n"]
    return int(after - before)


def evidence_span(ledger: Ledger, cluster: str) -> tuple[int, int] | None:
    """First and last second of a cluster's evidence, UTC; None without any."""
    row = ledger.rows(sql_text("load", "evidence_span.sql"), {"cluster": cluster})[0]
    return None if row["from_s"] is None else (int(row["from_s"]), int(row["to_s"]))


def covered_until(ledger: Ledger, cluster: str) -> int | None:
    """Until when Slurm's records of a cluster are in, UTC seconds."""
    value = ledger.rows(sql_text("load", "covered_until.sql"), {"cluster": cluster})[0]["to_s"]
    return None if value is None else int(value)
