"""`deitsec.ShardStream`: adversarial images as an iterable PyTorch dataset."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from deitsec.data.epoch_order import EpochOrder, share
from deitsec.data.shard_samples import Sample, SampleForm, Transform
from deitsec.shards import ShardFolder

_READ_ROWS = 512  # at a time


@dataclass(kw_only=True)
class _Place:
    """Where a reader stands in an epoch, and which of the readers it is."""

    epoch: int
    part: int
    parts: int
    given: int


class ShardStream(IterableDataset[Sample]):
    """The rows of an adversarial dataset in a shuffled order, each exactly once an epoch.

    The workers of a DataLoader, on all ranks, share the rows out among them: their numbers of rows
    differ by one at most, and none is lost or doubled, however many there are. A sample is (image,
    label, *columns), as in `ShardDataset`. Call `set_epoch` before each epoch, else all have the
    order of the first; persistent workers hear of it.

    `state_dict` and `load_state_dict` go on at the very row: of this process where the DataLoader
    has no workers, and of each worker with torchdata's StatefulDataLoader.

    Args:
        path: folder of `deitsec generate`.
        columns, dtype, transform, variant, only_success, incomplete: as of `ShardDataset`.
        shuffle_rows: shards are shuffled, and in them so many rows at a time, >= 0; 0 keeps the
            order of the rows. Rows of one class that follow each other over many shards stay
            together for as long: let a DataLoader shuffle a `ShardDataset` then.
        seed: of the order, >= 0.
        rank, world_size: of this process; by default those of torch.distributed where it runs
            already, else the only one.

    Raises:
        ImportError: pyarrow is not installed.
        ShardError: there is no dataset, it is not complete, or a shard is missing or broken.
        ValueError: no such column, dtype or variant, or a number out of range.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        transform: Transform | None = None,
        shuffle_rows: int = 16384,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        variant: int | None = None,
        only_success: bool = False,
        incomplete: bool = False,
    ) -> None:
        self._form = SampleForm(columns=tuple(columns), dtype=dtype, transform=transform)
        for name, value in (("shuffle_rows", shuffle_rows), ("seed", seed)):
            if value < 0:
                raise ValueError(f"{name} must be >= 0, got {value}")
        self._rank, self._world_size = _process(rank, world_size)
        self.folder = ShardFolder(
            Path(path), variant=variant, only_success=only_success, incomplete=incomplete
        )
        self._form.check(self.folder)
        self.class_names = self.folder.class_names
        self._shuffle_rows, self._seed = shuffle_rows, seed
        # in shared memory, so that workers that live on hear of a new epoch
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._place: _Place | None = None
        self._resumed: _Place | None = None

    @property
    def epoch(self) -> int:
        """The epoch whose order comes next."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next epoch; a place loaded in another epoch is forgotten.

        Raises:
            ValueError: it is below 0.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be >= 0, got {epoch}")
        self._epoch.fill_(epoch)
        if self._resumed is not None and self._resumed.epoch != epoch:
            self._resumed = None
        self._place = None

    def __iter__(self) -> Iterator[Sample]:
        """The rows that are this reader's, from where a loaded state left off.

        Raises:
            ValueError: the state is of another reader, or among another number of them.
        """
        part, parts = self._part()
        place, self._resumed = self._resumed, None
        if place is None:
            place = _Place(epoch=self.epoch, part=part, parts=parts, given=0)
        elif (place.part, place.parts) != (part, parts):
            raise ValueError(
                f"the state is of reader {place.part} of {place.parts}, and this is {part} of "
                f"{parts}: resume with the same number of processes and workers"
            )
        self._place = place
        return self._samples(place)

    def _samples(self, place: _Place) -> Iterator[Sample]:
        order = EpochOrder(
            starts=self.folder.starts,
            shuffle_rows=self._shuffle_rows,
            seed=self._seed,
            epoch=place.epoch,
        )
        start, stop = share(len(self.folder), place.part, place.parts)
        for rows in order.rows(start + place.given, stop):
            for first in range(0, len(rows), _READ_ROWS):
                for sample in self._form.read(self.folder, rows[first : first + _READ_ROWS]):
                    place.given += 1
                    yield sample

    def _part(self) -> tuple[int, int]:
        """Which reader this process is, and how many there are."""
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self._rank * count + number, self._world_size * count

    def state_dict(self) -> dict[str, Any]:
        """Where the last iterator of this process stands, as plain values."""
        part, parts = self._part()
        fresh = _Place(epoch=self.epoch, part=part, parts=parts, given=0)
        place = self._place or self._resumed or fresh
        return {**asdict(place), "order": self._fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, in its epoch, with the next iterator.

        A state taken at the end of an epoch leaves no row of it; `set_epoch` starts another.

        Raises:
            ValueError: the state is of other rows, or of another seed or way of shuffling.
        """
        values = dict(state)
        if values.pop("order", None) != self._fingerprint:
            raise ValueError(
                "the state is of another order: resume with the same dataset, rows, seed and "
                "shuffle_rows"
            )
        self._resumed = _Place(**values)
        self._place = None
        self._epoch.fill_(self._resumed.epoch)

    @cached_property
    def _fingerprint(self) -> str:
        """What the order of an epoch hangs on, and the shards, in short."""
        hasher = hashlib.sha256(f"{self._seed} {self._shuffle_rows}\n".encode())
        hasher.update(self.folder.starts.tobytes())
        for entry in self.folder.entries:
            hasher.update(entry.sha256.encode())
        return hasher.hexdigest()[:16]


def _process(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"give both rank and world_size, or none, got {rank} and {world_size}")
    if rank is not None and world_size is not None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, world_size), got {rank} of {world_size}")
        return rank, world_size
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
