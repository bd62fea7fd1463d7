"""Values that cross a file or a database: flat, immutable, never defaulting to 0 for what is unknown."""

from typing import NamedTuple


class Zone(NamedTuple):
    """One energy counter of a node, as a meter found it."""

    key: str
    """`meter:name`, e.g. `rapl:package-0/dram`; index numbers move, names stay."""
    domain: str
    """package, dram, core, uncore, psys, gpu, node."""
    wrap_uj: int | None
    """Value after which the counter restarts; None: not published, a fall is a reset."""
    max_uw: int | None
    """Highest plausible power; None: the default of the domain applies (sql/2_staging/stg_zone.sql)."""
    used: bool
    """Whether it belongs to the non-overlapping set that counts."""
    why: str
    """Why it is used or left out, for a person."""
    method: str = "counter"
    """counter, integrated (from power) or modelled."""


class SlurmJob(NamedTuple):
    """One run of a job as Slurm's accounting knows it (one row of `sacct -X -D`).

    Times are UTC epoch seconds; None where Slurm says Unknown, None or nothing.
    """

    cluster: str
    db_index: str
    """Key of the record; text, because from 24.11 on it passes 2^63."""
    job_id: int
    """Raw job id (JobIDRaw): each array task and het component has its own."""
    sluid: str | None
    job_label: str
    """JobID as people read it: `4711`, `9_3`, `10+1`."""
    array_job_id: int | None
    array_task_id: int | None
    het_job_id: int | None
    het_offset: int | None
    user: str | None
    uid: int | None
    account: str | None
    partition: str | None
    qos: str | None
    name: str | None
    state: str
    """First word of State: `CANCELLED by 5001` is `CANCELLED`."""
    exit_code: str | None
    submitted_at_s: int | None
    started_at_s: int | None
    ended_at_s: int | None
    suspended_s: int | None
    timelimit_s: int | None
    node_list: str | None
    """Slurm's hostlist, unexpanded; None if the job never had nodes."""
    nodes: int | None
    cpus: int | None
    memory_bytes: int | None
    """Allocated memory over all nodes (AllocTRES mem)."""
    gpus: int | None
    alloc_tres: str | None
    consumed_energy_raw_j: int | None
    source: str
    """`sacct` or the file's name."""
    line: int
    """Line of the source the record began on."""


class NodeSpec(NamedTuple):
    """What Slurm may allocate on a node (`scontrol show node`)."""

    node: str
    cpus: int
    """Logical CPUs Slurm may allocate: CPUEfctv, without CoreSpec cores."""
    memory_bytes: int
    """RealMemory less MemSpecLimit."""
    gpus: int | None
    source: str


class Problem(NamedTuple):
    """Input that could not be used: becomes a row of `ingest_problem`, the rest loads."""

    file: str
    line: int | None
    expected: str
    found: str


class Roots(NamedTuple):
    """Where the kernel's trees hang, so that a whole node can be a directory in a test."""

    sysfs: str = "/sys"
    procfs: str = "/proc"
    cgroupfs: str = "/sys/fs/cgroup"


class FactorSet(NamedTuple):
    """One immutable table of intensities: a newer file is a new set, never an edit."""

    factor_set: str
    """Its id, e.g. `ember-2026`."""
    title: str
    source: str
    licence: str
    attribution: str
    """What must stand beside a figure that uses it."""
    digest: str
    """`sha256:` of the file."""


class Factor(NamedTuple):
    """One yearly intensity of a grid zone."""

    grid_zone: str
    """As text, always: Namibia's code is `NA`."""
    kind: str
    """{location, market, residual, marginal}-{lifecycle, direct}; a set has one kind."""
    year: int
    intensity_g_per_kwh: str
    """A decimal number as it stands in the source; converted once, in SQL, never through a float."""
