"""Files each of which appears whole or not at all."""

import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files, each file whole, in the given order.

    All are written beside their final places and synced before the first is renamed, so a full disk
    leaves the old ones. An interruption between two renames leaves the first ones new and the rest
    old: a reader must take any such set, or the file that makes it valid goes last.

    Args:
        contents: bytes by final path; folders are made.

    Raises:
        OSError: with the final path of the file that could not be written, and why.
    """
    temporaries: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            temporaries[path] = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            with _naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(temporaries[path], data)
        for path, temporary in temporaries.items():
            with _naming(path):
                os.replace(temporary, path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    for folder in {path.parent for path in contents}:
        _sync_folder(folder)


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Write a file beside its place, and give it its name, synced, when the block ends well.

    Args:
        path: its final place; the folder is made.

    Yields:
        The path to write to. What is there is removed when the block raises.

    Raises:
        OSError: with the final path, if the file cannot be written, and why.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Name the file that was meant in the error, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"could not be written ({error.strerror})", str(path)) from error


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # the rename itself must reach the disk too; only POSIX can open a folder for that
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
