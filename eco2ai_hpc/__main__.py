"""`eco2ai-hpc`, and `python -m eco2ai_hpc`: the command line, or a word on what is not installed."""

import sys

from eco2ai_hpc.errors import SURROUNDINGS

_SERVER_SIDE = ("click", "duckdb", "jinja2", "rich")


def main() -> None:
    try:
        from eco2ai_hpc.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in _SERVER_SIDE:
            raise
        if sys.argv[1:2] == ["doctor"]:  # a node's own command: it needs nothing of the server side
            from eco2ai_hpc.sampler.__main__ import run as run_node

            sys.exit(run_node(sys.argv[1:]))
        print(f"error: {error.name} is not installed: this is a node's installation", file=sys.stderr)  # noqa: T201
        print("  try: pip install 'eco2ai-hpc[server]'", file=sys.stderr)  # noqa: T201
        sys.exit(SURROUNDINGS)
    run()


if __name__ == "__main__":
    main()
