"""The command line, one file a subcommand."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `deitsec ARGUMENTS` and return its exit code.

    0 done, 1 the machine failed (disk, memory), 2 bad input, 3 a gate failed, 130 interrupted.
    """
    from deitsec.cli.app import run

    return run(arguments)
