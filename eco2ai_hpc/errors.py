"""Errors that the user can mend, each with its exit code (contract: "Exit codes").

Anything else that escapes is a bug of ours: it ends with a trace and exit code 70.
"""

FINDINGS = 1
USAGE = 2
BAD_INPUT = 3
SURROUNDINGS = 4
BUG = 70


class Eco2aiError(Exception):
    """What went wrong, where and why; `hint` says what to do about it."""

    exit_code = BAD_INPUT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def render(self) -> str:
        """The message as it is printed to standard error."""
        text = f"error: {self}"
        return f"{text}\n  try: {self.hint}" if self.hint else text


class ConfigError(Eco2aiError):
    """The configuration holds something that cannot be used."""


class BadInputError(Eco2aiError):
    """A file or argument holds something that cannot be used."""


class SpoolError(Eco2aiError):
    """A spool segment cannot be read as such."""


class SurroundingsError(Eco2aiError):
    """Slurm, a lock, a permission or the network failed; nothing changed."""

    exit_code = SURROUNDINGS


class NothingFoundError(Eco2aiError):
    """The question was sound, but there is no data to answer it."""

    exit_code = FINDINGS
