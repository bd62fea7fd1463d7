"""From the site's configuration to the ledger: which node lies in which region, with which grid and PUE."""

from collections.abc import Sequence
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from eco2ai_hpc import intensity
from eco2ai_hpc.collector.nodes import expand_nodes
from eco2ai_hpc.config import Region, Site
from eco2ai_hpc.errors import BadInputError, ConfigError
from eco2ai_hpc.ledger import Ledger, books


def apply(ledger: Ledger, site: Site) -> list[tuple[str, str]]:
    """Load the factor set, check the regions against it and place the nodes; returns the nodes without a region."""
    about, factors = intensity.read(intensity.DEFAULT)
    books.add_factors(ledger, about, factors)
    zones = {factor.grid_zone for factor in factors}
    for region in site.regions:
        _check(region, zones, about.factor_set, site.path or "")
    known = books.nodes(ledger)
    placed = {node: name for node in known if (name := _region_of(node, site.regions))}
    books.set_regions(
        ledger,
        [(region.name, region.zone, region.time_zone, about.factor_set, region.pue) for region in site.regions],
        [(*node, name) for node, name in placed.items()],
    )
    return [node for node in known if node not in placed]


def _check(region: Region, zones: set[str], factor_set: str, path: str) -> None:
    where = f"{path}: region {region.name!r}"
    intensity.insist_on_zone(region.zone, zones, factor_set, where)
    try:
        ZoneInfo(region.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        hint = "an IANA name such as Europe/Paris"
        raise ConfigError(f"{where}: unknown time zone {region.time_zone!r}", hint=hint) from None


def _region_of(node: tuple[str, str], regions: Sequence[Region]) -> str | None:
    """The first region that names the node; `*` takes what no other names."""
    named = [region for region in regions if region.nodes != "*"]
    rest = [region for region in regions if region.nodes == "*"]
    for region in named:
        cluster, _, nodes = region.nodes.rpartition(":")
        if cluster in ("", node[0]) and node[1] in _members(nodes, region.name):
            return region.name
    return rest[0].name if rest else None


def _members(nodes: str, region: str) -> set[str]:
    try:
        return set(expand_nodes(nodes))
    except BadInputError as error:
        raise ConfigError(f"region {region!r}: {error}", hint='nodes = "cluster:n[001-400]"') from None
