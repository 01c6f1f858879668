"""The folder of a run: who may write into it, what is done, and what is left to do."""

import dataclasses
import hashlib
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deitsec.generation.plan import Job
from deitsec.generation.selection import pack_selection, selection_sha256, unpack_selection
from deitsec.generation.workload import Workload, shard_about
from deitsec.shards import (
    MANIFEST,
    Configuration,
    Manifest,
    ShardEntry,
    ShardError,
    UnreadableRow,
    read_manifest,
    shard_name,
    write_manifest,
)
from deitsec.shards.layout import LOCK, SELECTION, shard_numbers, unfinished_files
from deitsec.shards.shard_file import decode
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


def check_free(path: Path) -> None:
    """Refuse a folder in which a new run would write over what is there.

    A run that ended before its first shard leaves nothing that is worth keeping.

    Raises:
        ValueError: it holds shards.
    """
    if not shard_numbers(path):
        return
    if is_dataset(path):
        raise ValueError(f"{path} holds a dataset: go on with --resume, or take another folder")
    raise ValueError(
        f"{path} holds shards but no {MANIFEST}: see `deitsec generate verify`, or take another "
        "folder"
    )


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
    """Start a dataset in a folder that holds none; other files in it are left alone.

    Raises:
        OSError: it cannot be written.
    """
    _remove_unfinished(path)
    if selection is None:
        (path / SELECTION).unlink(missing_ok=True)  # of a run that ended before its manifest
    else:
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


def check_same(path: Path, stored: Configuration, configuration: Configuration) -> None:
    """Refuse to go on with a dataset of another configuration.

    Raises:
        ValueError: what differs.
    """
    if changes := stored.differences(configuration):
        raise ValueError(
            f"{path} holds another dataset: {'; '.join(changes)}. Give the same settings, or "
            "another folder"
        )


def resume_folder(path: Path, work: Workload, environment: Mapping[str, Any]) -> Folder:
    """Go on with the dataset of a folder.

    A shard that the manifest knows, of the size that it knows, is kept without reading it:
    `verify_dataset` finds what has changed inside. One that it has not heard of, or of another
    size, is read: it is taken up if it is the dataset's, and made again if it is broken or of
    another run. What an interruption left under temporary names is removed.

    Raises:
        OSError: the manifest cannot be written.
        ShardError: the manifest is broken.
        ValueError: the dataset is of another configuration; the message says what differs.
    """
    manifest = read_manifest(path)
    check_same(path, manifest.configuration, work.configuration)
    _remove_unfinished(path)
    known = {entry.shard: entry for entry in manifest.shards}
    entries: list[ShardEntry] = []
    for number in shard_numbers(path):
        if number >= work.plan.shards:
            continue
        entry = known.get(number)
        size = (path / shard_name(number)).stat().st_size
        if entry is None or entry.bytes != size:
            entry = taken_up(path, number, work.configuration, work)
        if entry is not None:
            entries.append(entry)
    complete = manifest.complete and len(entries) == work.plan.shards
    found = dataclasses.replace(
        manifest, shards=tuple(entries), complete=complete, environment=environment
    )
    folder = Folder(path, found)
    if found.shards != manifest.shards:
        folder.save()  # it may say that it is complete
    return folder


def _remove_unfinished(path: Path) -> None:
    for leftover in unfinished_files(path):
        leftover.unlink()


def taken_up(
    path: Path, number: int, configuration: Configuration, work: Workload | None = None
) -> ShardEntry | None:
    """The entry of a shard that the manifest does not know; None where it is not to be kept.

    Args:
        path: the folder.
        number: of the shard.
        configuration: that the shard has to be of.
        work: what says which rows it has to hold; None where that was looked at before.
    """
    place = path / shard_name(number)
    try:
        data = place.read_bytes()
        rows, about = decode(data, str(place))
    except (OSError, ShardError):
        return None
    unreadable = tuple(UnreadableRow(row=row, reason=why) for row, why in about.unreadable)
    if about.metadata() != shard_about(configuration, number, unreadable).metadata():
        return None
    if work is not None and not np.array_equal(
        rows.sample_id, _expected_ids(work, work.plan.job(number), unreadable)
    ):
        return None
    return ShardEntry(
        shard=number,
        variant=number % len(configuration.variants),
        rows=len(rows),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        successes=rows.successes,
        correct=rows.correct,
        seconds=None,
        unreadable=unreadable,
    )


def _expected_ids(work: Workload, job: Job, unreadable: tuple[UnreadableRow, ...]) -> Any:
    """(n,) int64 sample ids that the shard of a job has, in their order."""
    rows, ids = work.plan.rows_of(job)
    missing = torch.tensor([row.row for row in unreadable], dtype=torch.int64)
    takes = work.variants[job.variant].takes(work.images.labels[rows])
    return ids[takes & ~torch.isin(rows, missing)].numpy()


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
