"""Puts the subcommands together, and turns errors into one line and an exit code."""

import errno
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from deitsec.cli.attack import attack
from deitsec.cli.bench import bench
from deitsec.cli.certify import certify
from deitsec.cli.detect import detect
from deitsec.cli.display import printable
from deitsec.cli.distill import distill
from deitsec.cli.doctor import doctor
from deitsec.cli.generate import generate_app
from deitsec.cli.generate_verify import generate_verify
from deitsec.cli.list import list_app
from deitsec.cli.poison import poison
from deitsec.cli.reproduce import reproduce_app
from deitsec.cli.substitute import substitute
from deitsec.cli.train import train
from deitsec.cli.train_generator import train_generator
from deitsec.cli.transfer import transfer
from deitsec.cli.verify import verify

BAD_INPUT = 2
INTERRUPTED = 130

app = typer.Typer(
    name="deitsec",
    help="Find out how safe an image classifier is, fast.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(verify)
app.command()(attack)
app.command()(train)
app.command()(distill)
app.command()(train_generator)
app.command()(certify)
app.command()(detect)
app.command()(substitute)
app.command()(transfer)
app.command()(poison)
app.command()(bench)
app.command()(doctor)
generate_app.command("verify")(generate_verify)
app.add_typer(generate_app)
app.add_typer(list_app)
app.add_typer(reproduce_app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; every error that a user can cause is one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _warnings_in_a_line():
            code = app(words, prog_name="deitsec", standalone_mode=False, obj=words)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        return _fail(_describe(error), BAD_INPUT if _is_input(error) else 1)
    except (ValueError, TypeError, ImportError, MemoryError) as error:
        code = 1 if isinstance(error, ImportError | MemoryError) else BAD_INPUT
        return _fail(str(error) or type(error).__name__, code)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own
            return _fail(error.format_message(), BAD_INPUT)  # pyright: ignore
        if not _is_foreseen(error):
            raise
        return _fail(str(error), 1)
    if code == INTERRUPTED:
        return _fail("interrupted; no unfinished file was left under its final name", code)
    return code if isinstance(code, int) else 0


@contextmanager
def _warnings_in_a_line() -> Generator[None]:
    """Warnings without the place in the source that they come from."""
    before = warnings.formatwarning

    def in_a_line(message: Any, *_: Any, **__: Any) -> str:
        return f"deitsec: warning: {' '.join(printable(str(message)).split())}\n"

    warnings.formatwarning = in_a_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _fail(message: str, code: int) -> int:
    print(f"deitsec: {' '.join(printable(message).split())}", file=sys.stderr)
    return code


def _is_input(error: OSError) -> bool:
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EEXIST)


def _is_foreseen(error: Exception) -> bool:
    """Whether an error is one of a run that went wrong, not one of this program."""
    import torch

    from deitsec.generation.ray_runner import WorkerLostError
    from deitsec.ops import BackendUnavailableError
    from deitsec.training import TrainingDiverged

    foreseen = (
        TrainingDiverged,
        BackendUnavailableError,
        WorkerLostError,
        torch.OutOfMemoryError,
    )
    return isinstance(error, foreseen)


def _describe(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where}: free some space or choose another folder"
    return str(error)
