"""The ledger: the only place that talks to DuckDB. Opened per batch and closed again; all arithmetic is in sql/."""

from eco2ai_hpc.ledger.connection import Ledger, Row, open_ledger

__all__ = ["Ledger", "Row", "open_ledger"]
