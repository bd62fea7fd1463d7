"""Spool -> ledger, exactly once; job records from Slurm; and what the site's configuration says about places."""

from eco2ai_hpc.collector.collect import Summary, collect

__all__ = ["Summary", "collect"]
