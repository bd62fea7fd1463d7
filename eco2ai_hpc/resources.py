"""Where the shipped SQL, reports, hooks and data lie: in a wheel beside the package, else in the checkout.

An editable install copies force-included files once and then goes stale, so the checkout's own files are read there.
"""

import os.path

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def root() -> str:
    """The directory that holds `sql/`, `reports/`, `prolog_epilog/` and `data/`."""
    shipped = os.path.join(_PACKAGE, "_data")
    return shipped if os.path.isdir(shipped) else os.path.dirname(_PACKAGE)


def path(*parts: str) -> str:
    """The absolute path of a shipped file or directory, e.g. `path("data", "tdp")`."""
    return os.path.join(root(), *parts)
