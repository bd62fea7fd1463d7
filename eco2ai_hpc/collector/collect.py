"""`eco2ai-hpc collect`: spools, job records and places into one ledger."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from eco2ai_hpc.collector import places, segments, slurm
from eco2ai_hpc.config import Site
from eco2ai_hpc.errors import BadInputError, SurroundingsError
from eco2ai_hpc.ledger import Ledger, books, load, open_ledger
from eco2ai_hpc.model import Problem, SlurmJob

# Records of this long before the last load are read again: they change after the fact.
OVERLAP_S = 24 * 3600


class Summary(NamedTuple):
    """What came in, and what is missing."""

    segments_found: int
    segments_new: int
    segments_refused: int
    bad_lines: int
    jobs_read: int
    jobs_changed: int
    job_problems: int
    calibrations_new: int
    nodes_without_region: list[str]
    warnings: list[str]
    jobs_failed: str | None
    """Why Slurm could not be asked; everything else is in."""


class _Jobs(NamedTuple):
    read: int = 0
    changed: int = 0
    problems: int = 0


def collect(
    ledger_path: str,
    directories: Sequence[str],
    site: Site,
    *,
    jobs: str,
    confirm: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Bring everything new into the ledger; a second run changes nothing.

    `confirm` lets the nodes prune what is in this ledger: for the site's own ledger, not for a trial.
    `jobs`: `sacct`, `none`, or the path of a file of sacct's own -P output. Where Slurm cannot be asked the evidence
    is in all the same, and the summary's `jobs_failed` says what is missing.
    """
    for directory in directories:
        if not Path(directory).is_dir():
            raise BadInputError(f"there is no spool directory {directory}", hint="eco2ai-hpc collect SPOOL_DIR")
    with open_ledger(ledger_path, write=True) as ledger:
        loaded = segments.load_new(ledger, directories, progress, confirm=confirm)
        homeless = places.apply(ledger, site)
        done, warnings, failed = _Jobs(), list[str](), None
        if jobs != "none":
            progress("job records")
            try:
                done, warnings = _load_jobs(ledger, site, jobs)
            except SurroundingsError as error:
                failed = str(error)
        calibrations = books.calibrate(ledger)
    return Summary(
        segments_found=loaded.found,
        segments_new=loaded.new,
        segments_refused=loaded.refused,
        bad_lines=loaded.bad_lines,
        jobs_read=done.read,
        jobs_changed=done.changed,
        job_problems=done.problems,
        calibrations_new=calibrations,
        nodes_without_region=[f"{cluster}:{node}" for cluster, node in homeless],
        warnings=warnings,
        jobs_failed=failed,
    )


def _load_jobs(ledger: Ledger, site: Site, jobs: str) -> tuple[_Jobs, list[str]]:
    cluster = _cluster(ledger, site)
    if jobs != "sacct":
        return _load_file(ledger, site, cluster, jobs), []
    span = books.evidence_span(ledger, cluster)
    if span is None:
        return _Jobs(), []
    until = books.covered_until(ledger, cluster)
    from_s = span[0] if until is None else min(until, span[1]) - OVERLAP_S
    to_s = int(time.time())
    warnings = _load_node_specs(ledger, cluster)
    done = _add(ledger, slurm.run_sacct(from_s - 60, to_s + 60, cluster=cluster))[0]
    books.add_coverage(ledger, cluster, from_s, to_s, "sacct")
    return done, warnings


def _load_file(ledger: Ledger, site: Site, cluster: str, name: str) -> _Jobs:
    if not Path(name).is_file():
        raise BadInputError(f"--jobs {name}: no such file", hint="sacct, none, or a file that sacct -P wrote")
    zone = site.regions[0].time_zone if site.regions else "UTC"
    done, span = _add(ledger, slurm.read_sacct_file(Path(name), default_cluster=cluster, time_zone=zone))
    if span:
        books.add_coverage(ledger, cluster, span[0], span[1], name)
    return done


def _add(ledger: Ledger, records: Iterator[SlurmJob | Problem]) -> tuple[_Jobs, tuple[int, int] | None]:
    problems: list[Problem] = []
    found = books.add_jobs(ledger, _with_nodes(records, problems))
    load.add_problems(ledger, problems)
    span = (found["from_s"], found["to_s"]) if found["from_s"] and found["to_s"] else None
    return _Jobs(found["records"], found["changed"], len(problems)), span


def _with_nodes(records: Iterator[SlurmJob | Problem], problems: list[Problem]) -> Iterator[tuple[SlurmJob, list[str]]]:
    for record in records:
        if isinstance(record, Problem):
            problems.append(record)
            continue
        nodes: list[str] = []
        try:
            nodes = slurm.expand_nodes(record.node_list) if record.node_list else []
        except BadInputError as error:
            problems.append(Problem(record.source, record.line, "a hostlist", str(error)))
        yield record, nodes


def _load_node_specs(ledger: Ledger, cluster: str) -> list[str]:
    """Capacities from Slurm; without them the nodes' own headers serve, and that is said."""
    try:
        books.add_node_specs(ledger, cluster, slurm.read_node_specs())
    except SurroundingsError as error:
        return [f"{error}: node capacities are those of the nodes' own headers"]
    return []


def _cluster(ledger: Ledger, site: Site) -> str:
    """The cluster whose records are asked for: configured, else the only one with evidence."""
    if site.cluster:
        return site.cluster
    clusters = {cluster for cluster, _ in books.nodes(ledger)}
    if len(clusters) > 1:
        raise BadInputError(
            f"evidence of several clusters ({', '.join(sorted(clusters))}): whose job records?",
            hint='set cluster = "NAME" in the configuration',
        )
    return next(iter(clusters), "local")
