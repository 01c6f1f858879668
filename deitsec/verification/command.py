"""The command line that makes a figure again."""

import shlex
from collections.abc import Mapping, Sequence

Option = str | int | float | bool | Sequence[str] | None


def verify_command(options: Mapping[str, Option]) -> str:
    """Write `deitsec verify` with the options that are set, in their order.

    Args:
        options: long option name without dashes -> value; None and False are left out, True is a
            flag, a sequence repeats the option.
    """
    words = ["deitsec", "verify"]
    for name, value in options.items():
        if value is None or value is False:
            continue
        for item in (
            value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        ):
            words.append(f"--{name}")
            if item is not True:
                words.append(str(item))
    return shlex.join(words)


def attack_command(command: str | None, spec: str) -> str | None:
    """Write the command that runs one attack of a verification alone; None without a command."""
    if command is None:
        return None
    return f"{command} --attack {shlex.quote(spec)} --no-sweep"
