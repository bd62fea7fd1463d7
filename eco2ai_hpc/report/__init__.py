"""Reports: one content model (a dict of JSON values), rendered as text, JSON, CSV and HTML."""

from eco2ai_hpc.report.content import Question, build

__all__ = ["Question", "build"]
