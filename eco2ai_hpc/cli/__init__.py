"""The command line: one command = one file of this folder, loaded when it is asked for.

A command module offers `command`, a click command of the module's name.
"""

import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from eco2ai_hpc import __version__
from eco2ai_hpc.errors import BUG, SURROUNDINGS, USAGE, Eco2aiError

_FOLDER = Path(__file__).parent


class _Commands(click.Group):
    """Finds commands by scanning the folder; imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        found: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="eco2ai-hpc")
def cli() -> None:
    """Energy and CO2e accounting for every batch job of an HPC cluster."""


def main() -> None:
    """Run the command line; every error ends in its own exit code (docs/commands.md)."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        return int(cli.main(words, prog_name="eco2ai-hpc", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return USAGE
    except Eco2aiError as error:
        print(error.render(), file=sys.stderr)  # noqa: T201
        return error.exit_code
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return SURROUNDINGS
    except Exception:  # noqa: BLE001 - the one place: what nobody expected is a bug of ours
        traceback.print_exc()
        return BUG


_COMMON: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "config": (("--config",), {"metavar": "FILE", "help": "Site configuration (/etc/eco2ai-hpc/config.toml)."}),
    "ledger": (("--ledger",), {"metavar": "FILE", "help": "Ledger (/var/lib/eco2ai-hpc/ledger.duckdb)."}),
    "output": (("--output", "-o"), {"metavar": "PATH", "help": "Write there instead of standard output."}),
    "quiet": (("--quiet", "-q"), {"is_flag": True, "help": "Say nothing but errors."}),
}


def option(name: str) -> Callable[[Any], Any]:
    """One of the options that commands have in common: config, ledger, output, quiet."""
    flags, settings = _COMMON[name]
    return click.option(*flags, **settings)


def format_option(*choices: str) -> Callable[[Any], Any]:
    """`--format`; text and json where a command names no others."""
    known = click.Choice(choices or ("text", "json"))
    return click.option("--format", "format_", type=known, default="text", show_default=True, help="How to print it.")


def emit(text: str, output: str | None) -> None:
    """Print, or write the file whole: under a temporary name, then renamed."""
    if not text.endswith("\n"):
        text += "\n"
    if output is None or output == "-":
        click.echo(text, nl=False)
        return
    target = Path(output)
    partial = target.with_name(f".{target.name}.new")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
