"""A folder of files that appears whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(out: Path) -> Generator[Path]:
    """Fill a folder beside its place, and give it its name when the block ends well.

    Args:
        out: where it goes; missing or empty.

    Yields:
        The folder to fill. It is removed when the block raises; a process that is killed leaves it
        as `.NAME.XXXXXXXX.part`.

    Raises:
        OSError: the folder cannot be written.
        ValueError: `out` is a file, holds something, or is the root of a file system.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: export to another one, or empty it")
    if os.path.ismount(out):
        raise ValueError(f"{out} is where a file system is mounted: export to a folder in it")
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        yield part
        _sync()  # at once: a million small files are not synced one by one
        if out.exists():
            out.rmdir()
        part.rename(out)
        _sync()
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _sync() -> None:
    if hasattr(os, "sync"):  # POSIX
        os.sync()
