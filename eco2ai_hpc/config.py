"""The site's configuration and the paths everything else hangs below. Standard library only.

Precedence everywhere: flag > environment > configuration file > default. Unknown keys are errors that name the nearest.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from eco2ai_hpc.errors import ConfigError

DEFAULT_CONFIG = "/etc/eco2ai-hpc/config.toml"
_DEFAULTS = {
    "run_dir": "/run/eco2ai-hpc",
    "spool_dir": "/var/spool/eco2ai-hpc",
    "ledger": "/var/lib/eco2ai-hpc/ledger.duckdb",
    "lake": "/var/lib/eco2ai-hpc/lake",
}
_LOCAL_NAMES = {"run_dir": "run", "spool_dir": "spool", "ledger": "ledger.duckdb", "lake": "lake"}
RULES = ("reserve-static-use-dynamic",)
SOURCES = ("sacct",)


class Region(NamedTuple):
    """A place with one grid and one PUE."""

    name: str
    nodes: str
    """`cluster:nodeset`, or `*` for all others."""
    zone: str
    """Key into the factor set."""
    time_zone: str
    pue: float | None
    """None: not applied, which is shown."""


class NodeType(NamedTuple):
    """What a site knows of a kind of node."""

    nodes: str
    idle_w: float | None
    max_w: float | None
    tdp_w: float | None
    embodied_kg: float | None
    lifetime_years: float | None


class Site(NamedTuple):
    """One configuration file."""

    path: str | None
    cluster: str | None
    jobs_source: str
    attribution_rule: str
    regions: tuple[Region, ...]
    node_types: tuple[NodeType, ...]


def path_of(what: str, flag: str | None = None) -> str:
    """The path of `run_dir`, `spool_dir`, `ledger` or `lake`: flag, environment, else the default.

    Without root, local mode puts them all below $XDG_STATE_HOME/eco2ai-hpc.
    """
    chosen = flag or os.environ.get(f"ECO2AI_HPC_{what.upper()}")
    if chosen:
        return chosen
    return _DEFAULTS[what] if os.geteuid() == 0 else str(state_home() / _LOCAL_NAMES[what])


def state_home() -> Path:
    """$XDG_STATE_HOME/eco2ai-hpc."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "eco2ai-hpc"


def load(flag: str | None = None) -> Site:
    """Read the site's configuration; without any file, an empty one. Raises ConfigError with file, line and remedy."""
    asked = flag or os.environ.get("ECO2AI_HPC_CONFIG")
    path = asked or DEFAULT_CONFIG
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        if asked:
            raise ConfigError(f"there is no configuration file {path}") from None
        return Site(None, None, "sacct", RULES[0], (), ())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return parse(text, path)


def parse(text: str, path: str) -> Site:
    """The configuration in `text`; `path` is for messages."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    read = _Reader(text, path)
    read.known(found, "", ("cluster", "jobs", "attribution", "region", "node_type"))
    jobs = read.table(found, "jobs", ("source",))
    attribution = read.table(found, "attribution", ("rule",))
    return Site(
        path=path,
        cluster=read.text(found, "cluster"),
        jobs_source=read.choice(jobs, "source", SOURCES),
        attribution_rule=read.choice(attribution, "rule", RULES),
        regions=tuple(_region(read, entry) for entry in read.tables(found, "region", Region._fields)),
        node_types=tuple(_node_type(read, entry) for entry in read.tables(found, "node_type", NodeType._fields)),
    )


def _region(read: "_Reader", entry: dict[str, Any]) -> Region:
    for key in ("name", "nodes", "zone"):
        if key not in entry:
            read.fail("region", f"[[region]] lacks {key}", hint=f'{key} = "…"')
    pue = read.number(entry, "pue", low=1.0, high=10.0)
    time_zone = read.text(entry, "time_zone") or "UTC"
    return Region(
        read.text(entry, "name") or "", read.text(entry, "nodes") or "", read.text(entry, "zone") or "", time_zone, pue
    )


def _node_type(read: "_Reader", entry: dict[str, Any]) -> NodeType:
    if "nodes" not in entry:
        read.fail("node_type", "[[node_type]] lacks nodes", hint='nodes = "cluster:n[1-4]"')
    numbers = [read.number(entry, key, low=0.0, high=1e7) for key in NodeType._fields[1:]]
    return NodeType(read.text(entry, "nodes") or "", *numbers)


class _Reader:
    """Checks values and says where a wrong one stands."""

    def __init__(self, text: str, path: str) -> None:
        self._lines = text.splitlines()
        self._path = path

    def fail(self, key: str, message: str, *, hint: str | None = None) -> NoReturn:
        line = next((n for n, text in enumerate(self._lines, 1) if text.strip(" [").startswith(key)), None)
        where = f"{self._path}:{line}" if line else self._path
        raise ConfigError(f"{where}: {message}", hint=hint)

    def known(self, table: dict[str, Any], name: str, keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(keys)}"
                self.fail(key, f"unknown key {key!r}{f' in {name}' if name else ''}", hint=hint)

    def table(self, found: dict[str, Any], key: str, keys: tuple[str, ...]) -> dict[str, Any]:
        table = found.get(key, {})
        if not isinstance(table, dict):
            self.fail(key, f"{key} must be a table", hint=f"[{key}]")
        self.known(table, f"[{key}]", keys)
        return table

    def tables(self, found: dict[str, Any], key: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
        tables = found.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
            self.fail(key, f"{key} must be an array of tables", hint=f"[[{key}]]")
        for entry in tables:
            self.known(entry, f"[[{key}]]", keys)
        return tables

    def text(self, table: dict[str, Any], key: str) -> str | None:
        value = table.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            self.fail(key, f"{key} = {value!r} is not a text", hint=f'{key} = "…"')
        return value

    def choice(self, table: dict[str, Any], key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(table, key) or allowed[0]
        if value not in allowed:
            self.fail(key, f"{key} = {value!r} is not known", hint="one of " + ", ".join(allowed))
        return value

    def number(self, table: dict[str, Any], key: str, *, low: float, high: float) -> float | None:
        value = table.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(key, f"{key} = {value!r} is not a number from {low:g} to {high:g}")
        return float(value)
