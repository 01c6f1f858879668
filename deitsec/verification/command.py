"""The command line that makes a figure again."""

import shlex
from collections.abc import Mapping


def verify_command(options: Mapping[str, str | int | float | bool | None]) -> str:
    """Write `deitsec verify` with the options that are set, in their order.

    Args:
        options: long option name without dashes -> value; None and False are left out, True is a
            flag.
    """
    words = ["deitsec", "verify"]
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words.append(str(value))
    return shlex.join(words)


def attack_command(command: str, spec: str) -> str:
    """Write the command that runs one attack of a verification alone."""
    return f"{command} --attack {shlex.quote(spec)} --no-sweep"
