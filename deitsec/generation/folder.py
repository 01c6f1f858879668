"""The folder of a run: who may write into it, what is done, and what is left to do."""

import dataclasses
import hashlib
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from deitsec.generation.selection import pack_selection, selection_sha256, unpack_selection
from deitsec.shards import (
    MANIFEST,
    Configuration,
    Manifest,
    ShardEntry,
    ShardError,
    UnreadableRow,
    read_manifest,
    read_shard,
    shard_name,
    write_manifest,
)
from deitsec.shards.layout import LOCK, SELECTION, shard_numbers, unfinished_files
from deitsec.whole_files import replace_files

_SAVE_SECONDS = 10.0  # between two manifests of a run that goes on


class Folder:
    """A dataset that is being written.

    It is the checkpoint too: a shard under its final name is done, whatever the manifest has heard
    of it. Open it by `open_folder`.

    Args:
        path: the folder.
        manifest: what is in it so far.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._manifest = manifest
        self._entries = {entry.shard: entry for entry in manifest.shards}
        self._saved = time.monotonic()

    @property
    def done(self) -> Mapping[int, ShardEntry]:
        """The finished shards by number."""
        return self._entries

    @property
    def manifest(self) -> Manifest:
        """What the dataset is made of, and what is in it so far."""
        shards = tuple(self._entries[number] for number in sorted(self._entries))
        return dataclasses.replace(self._manifest, shards=shards)

    def add(self, entry: ShardEntry) -> None:
        """Take note of a shard that is under its final name."""
        self._entries[entry.shard] = entry
        # a manifest of 25,000 shards is 8 MB: not to be written for each of them
        if time.monotonic() - self._saved > max(_SAVE_SECONDS, len(self._entries) / 1000):
            self.save()

    def save(self, *, complete: bool = False) -> Manifest:
        """Write the manifest."""
        self._manifest = dataclasses.replace(self.manifest, complete=complete)
        write_manifest(self.path, self._manifest)
        self._saved = time.monotonic()
        return self._manifest


def is_dataset(path: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (path / MANIFEST).is_file()


def stored_selection(path: Path, configuration: Configuration) -> Tensor | None:
    """The rows that a run picked, (n,) int64, or None where it takes them in their order.

    Raises:
        ShardError: `selection.npy` is missing or broken.
    """
    expected = configuration.plan.selection_sha256
    if expected is None:
        return None
    try:
        rows = unpack_selection((path / SELECTION).read_bytes())
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path / SELECTION} cannot be read ({error})") from None
    if selection_sha256(rows) != expected:
        raise ShardError(f"{path / SELECTION} is not the one that {MANIFEST} knows")
    return rows


def start_folder(
    path: Path,
    configuration: Configuration,
    *,
    selection: Tensor | None,
    unreadable: tuple[UnreadableRow, ...],
    command: Sequence[str],
    environment: Mapping[str, Any],
) -> Folder:
    """Start a dataset in a folder that holds none.

    Raises:
        OSError: it cannot be written.
    """
    if selection is not None:
        replace_files({path / SELECTION: pack_selection(selection)})
    manifest = Manifest(
        configuration=configuration,
        shards=(),
        complete=False,
        command=tuple(command),
        environment=environment,
        unreadable=unreadable,
    )
    write_manifest(path, manifest)
    return Folder(path, manifest)


def resume_folder(
    path: Path, configuration: Configuration, environment: Mapping[str, Any]
) -> Folder:
    """Go on with the dataset of a folder.

    Shards that the manifest has not heard of are read and taken up; a shard that is broken or of
    another run is made again. What an interruption left under temporary names is removed.

    Raises:
        ShardError: the manifest is broken.
        ValueError: the dataset is of another configuration; the message says what differs.
    """
    manifest = read_manifest(path)
    if changes := manifest.configuration.differences(configuration):
        raise ValueError(
            f"{path} holds another dataset: {'; '.join(changes)}. Give the same settings, or "
            "another folder"
        )
    for leftover in unfinished_files(path):
        leftover.unlink()
    known = {entry.shard: entry for entry in manifest.shards}
    entries: list[ShardEntry] = []
    for number in shard_numbers(path):
        entry = known.get(number)
        size = (path / shard_name(number)).stat().st_size
        if entry is None or entry.bytes != size:
            entry = taken_up(path, number, configuration)
        if entry is not None:
            entries.append(entry)
    found = dataclasses.replace(
        manifest, shards=tuple(entries), complete=False, environment=environment
    )
    return Folder(path, found)


def taken_up(path: Path, number: int, configuration: Configuration) -> ShardEntry | None:
    """The entry of a shard that the manifest does not know; None where it is not to be kept."""
    place = path / shard_name(number)
    try:
        rows, about = read_shard(place)
    except ShardError:
        return None
    variant = number % len(configuration.variants)
    record = configuration.variants[variant]
    expected = (number, record.attack, record.model_sha256, configuration.source.sha256)
    if (about.shard, about.attack, about.model["sha256"], about.source["sha256"]) != expected:
        return None
    data = place.read_bytes()
    return ShardEntry(
        shard=number,
        variant=variant,
        rows=len(rows),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        successes=int(rows.success.sum()),
        correct=int((rows.clean_prediction == rows.label).sum()),
        seconds=None,
        unreadable=tuple(UnreadableRow(row=row, reason=why) for row, why in about.unreadable),
    )


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Keep other runs out of a folder, which is made where it is missing.

    The system lets go of the lock when the process ends, however it ends.

    Raises:
        OSError: the folder cannot be made.
        ValueError: another run is writing into it.
    """
    from filelock import FileLock, Timeout

    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{path} is being written by another run: wait for it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
