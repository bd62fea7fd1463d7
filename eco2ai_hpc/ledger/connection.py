"""Opening the ledger, applying sql/ in folder order, and running its named queries."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from eco2ai_hpc import resources
from eco2ai_hpc.errors import NothingFoundError, SurroundingsError

Row = dict[str, Any]

_VIEW_FOLDERS = ("2_staging", "3_interval", "4_job", "5_carbon", "6_accounts")
_OFFLINE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
# InvalidInput: what the JSON reader says of a value that fits no column.
_UNUSABLE = (
    duckdb.ConversionException, duckdb.ConstraintException, duckdb.OutOfRangeException, duckdb.InvalidInputException,
)  # fmt: skip
# The owner of a lock, as DuckDB names it: "Conflicting lock is held in /usr/bin/python3.11 (PID 4711)".
_LOCK = re.compile(r"held in (?P<command>.+?) \(PID (?P<pid>\d+)\)")


class UnusableRowsError(Exception):
    """Rows that do not fit their table: the fault of the data, not of the statement."""


class Ledger:
    """An open ledger."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str) -> None:
        self._connection = connection
        self.path = path

    def run(self, statement: str, parameters: Sequence[Any] | Row | None = None) -> None:
        """Run one or several statements; no result. Raises UnusableRowsError where data does not fit a column."""
        try:
            self._connection.execute(statement, parameters)
        except _UNUSABLE as error:
            raise UnusableRowsError(str(error).splitlines()[0]) from error

    def rows(self, statement: str, parameters: Sequence[Any] | Row | None = None) -> list[Row]:
        """The result of one statement, all of it: DuckDB 2 streams, and a stream owns the connection."""
        result = self._connection.execute(statement, parameters)
        names = [column[0] for column in result.description or []]
        return [dict(zip(names, values, strict=True)) for values in result.fetchall()]

    def run_file(self, *parts: str, parameters: Row | None = None) -> None:
        """Run a file below sql/."""
        self.run(sql_text(*parts), parameters)

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows, leaving those whose key is there already.

        They go through a file that DuckDB reads: an executemany costs a millisecond a row. Names come from this
        package only, never from input.
        """
        with passing_file(dict(zip(columns, row, strict=True)) for row in rows) as (path, count):
            if count == 0:
                return
            types = {row["column_name"]: row["column_type"] for row in self.rows(f"describe {table}")}
            names = ", ".join(columns)
            wanted = ", ".join(f"'{name}': '{types[name]}'" for name in columns)
            self.run(
                f"insert into {table} ({names}) select {names} from read_json($file, columns = {{{wanted}}}, "  # noqa: S608
                "format = 'newline_delimited', maximum_object_size = 67108864) on conflict do nothing",
                {"file": path},
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: what is inside is in the ledger after it, or nothing of it is."""
        self._connection.execute("begin transaction")
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def checks(self) -> dict[str, list[Row]]:
        """The violations of each rule in sql/checks/, by the rule's name."""
        folder = Path(resources.path("sql", "checks"))
        return {rule.stem: self.rows(rule.read_text(encoding="utf-8")) for rule in sorted(folder.glob("*.sql"))}

    def problems(self) -> list[Row]:
        """Input that could not be used, newest first."""
        return self.rows(sql_text("load", "problems.sql"))


@contextmanager
def passing_file(rows: Iterable[Row]) -> Iterator[tuple[str, int]]:
    """Rows as lines of JSON in a file that has no name and so outlives no crash; yields (path, rows)."""
    with tempfile.TemporaryFile("w") as file:
        count = 0
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(json.dumps(row, default=str) + "\n")
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}", count


def sql_text(*parts: str) -> str:
    """The text of a file below sql/."""
    return Path(resources.path("sql", *parts)).read_text(encoding="utf-8")


@contextmanager
def open_ledger(path: str, *, write: bool = False) -> Iterator[Ledger]:
    """Open the ledger at `path`; a writer makes it, and its views, where they are missing.

    Raises NothingFoundError where a reader finds no ledger, SurroundingsError where it is locked or cannot be opened.
    """
    if not write and not Path(path).exists():
        raise NothingFoundError(f"there is no ledger at {path}", hint="eco2ai-hpc collect SPOOL_DIR makes one")
    if write:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = _connect(path, write=write)
    try:
        connection.execute("set TimeZone = 'UTC'")
        ledger = Ledger(connection, path)
        if write:
            _prepare(ledger)
        yield ledger
    finally:
        connection.close()


def _connect(path: str, *, write: bool) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(path, read_only=not write, config=dict(_OFFLINE))
    except duckdb.IOException as error:
        owner = _LOCK.search(str(error))
        if owner:
            who = f"PID {owner['pid']} ({owner['command']})"
            raise SurroundingsError(f"the ledger {path} is in use by {who}", hint="wait for it, then again") from None
        raise SurroundingsError(f"cannot open the ledger {path}: {error}") from None


def _prepare(ledger: Ledger) -> None:
    """Tables, then views in the order of computation. All of it is idempotent."""
    ledger.run_file("engine", "duckdb.sql")
    for folder in ("1_evidence", *_VIEW_FOLDERS):
        for file in sorted(Path(resources.path("sql", folder)).glob("*.sql")):
            ledger.run(file.read_text(encoding="utf-8"))
