"""One content, four formats."""

import json
from collections.abc import Callable

from eco2ai_hpc.report import html, table, text
from eco2ai_hpc.report.wording import Content

FORMATS = ("text", "json", "csv", "html")


def render(content: Content, format: str, *, width: int | None = None, color: bool = False) -> str:  # noqa: A002
    """The report as one string that ends with a newline; width and color concern text only.

    Raises ValueError for a format that is not in FORMATS.
    """
    if format == "text":
        return text.render(content, width=width, color=color)
    renderers: dict[str, Callable[[Content], str]] = {"json": _json, "csv": table.render, "html": html.render}
    if format not in renderers:
        raise ValueError(f"unknown format {format!r}, known: {', '.join(FORMATS)}")
    return renderers[format](content)


def _json(content: Content) -> str:
    # Pure ASCII: a name with control or direction characters cannot act on a terminal. NaN would be a bug of ours.
    return json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
