"""A ledger made from the spools of a test."""

from pathlib import Path

from eco2ai_hpc import config
from eco2ai_hpc.collector import collect
from eco2ai_hpc.ledger import open_ledger

SITE = """
cluster = "lab"
[[region]]
name = "here"
nodes = "*"
zone = "FR"
pue = 1.25
"""


class Books:
    """A ledger made from the spools of a test."""

    def __init__(self, path: Path):
        self.path = str(path / "ledger.duckdb")
        self.spool = path / "spool"
        self.spool.mkdir(exist_ok=True)

    def collect(self, jobs="none", site=SITE):
        return collect(self.path, [str(self.spool)], config.parse(site, "site.toml"), jobs=jobs)

    def rows(self, query, parameters=None):
        with open_ledger(self.path) as ledger:
            return ledger.rows(query, parameters)

    def execute(self, statement):
        with open_ledger(self.path, write=True) as ledger:
            ledger.run(statement)

    def idle(self, watts, node="n1", zone="rapl:package-0"):
        """Calibrate a counter."""
        values = f"'lab', '{node}', '{zone}', timestamp '1970-01-01', {round(watts * 1e6)}, 'test'"
        self.execute(f"insert or replace into calibration values ({values})")

    def violations(self):
        with open_ledger(self.path) as ledger:
            return {rule: rows for rule, rows in ledger.checks().items() if rows}

    def booked(self):
        """{account or run key: microjoules}"""
        rows = self.rows(
            "select case account when 'job' then run_key else account end as who, cast(sum(energy_uj) as bigint) as uj"
            " from booking group by all"
        )
        return {row["who"]: row["uj"] for row in rows}
