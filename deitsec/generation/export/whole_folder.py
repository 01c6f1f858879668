"""A folder of files that appears whole or not at all."""

import os
import re
import secrets
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(out: Path) -> Generator[Path]:
    """Fill a folder beside its place, and give it its name when the block ends well.

    Args:
        out: where it goes; missing or empty, or a link to where it goes.

    Yields:
        The folder to fill. It is removed when the block raises; a process that is killed leaves it
        as `.NAME.XXXXXXXX.part`, which the next one for the same place removes.

    Raises:
        OSError: the folder cannot be written.
        ValueError: `out` is a file, holds something, or is the root of a file system.
    """
    out = Path(os.path.realpath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder: export to another one, or empty it")
    if os.path.ismount(out):
        raise ValueError(f"{out} is where a file system is mounted: export to a folder in it")
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(out)
    part.mkdir()
    held = _hold(part)
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
    finally:
        if held is not None:
            os.close(held)


def _remove_left_behind(out: Path) -> None:
    """Remove what processes left that were killed; not what another one fills right now."""
    name = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}\.part")
    for path in out.parent.iterdir():
        if not name.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        held = _hold(path)
        if held is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def _hold(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed; None where another process does, or cannot."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sync() -> None:
    if hasattr(os, "sync"):  # POSIX
        os.sync()
