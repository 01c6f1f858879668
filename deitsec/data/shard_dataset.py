"""`deitsec.ShardDataset`: adversarial images as a map-style PyTorch dataset."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from deitsec.data.shard_samples import Sample, SampleForm, Transform
from deitsec.shards import ShardFolder


class ShardDataset(Dataset[Sample]):
    """The rows of an adversarial dataset, by number.

    A sample is (image, label, *columns): the image (C, H, W), the others tensors of no dimension.
    Rows are read where they lie, so a DataLoader may shuffle all of them; a batch is read at once.

    Args:
        path: folder of `deitsec generate`.
        columns: further columns, `success` or `adversarial_prediction` say; see
            `deitsec.shards.ShardRows`. The target of an untargeted attack is -1.
        dtype: torch.float32 for images in [0, 1], torch.uint8 for the bytes stored.
        transform: what is done with each image.
        variant: the rows of one attack on one model only, by its place in the manifest.
        only_success: the rows only whose goal is reached.
        incomplete: take a run that has not ended as far as it is.

    Attributes:
        class_names: one for each label.

    Raises:
        ImportError: pyarrow is not installed.
        ShardError: there is no dataset, it is not complete, or a shard is missing or broken.
        ValueError: no such column, dtype or variant.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        transform: Transform | None = None,
        variant: int | None = None,
        only_success: bool = False,
        incomplete: bool = False,
    ) -> None:
        self._form = SampleForm(columns=tuple(columns), dtype=dtype, transform=transform)
        self.folder = ShardFolder(
            Path(path), variant=variant, only_success=only_success, incomplete=incomplete
        )
        self._form.check(self.folder)
        self.class_names = self.folder.class_names

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.folder)

    def __getitem__(self, row: int) -> Sample:
        """A sample; negative rows count from the end.

        Raises:
            IndexError: there is no such row.
            ShardError: its shard is broken.
        """
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be in [0, {len(self)}), got {row}")
        return self._form.read(self.folder, np.array([row % len(self)]))[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Sample]:
        """The samples of a batch, read at once, as a DataLoader asks for them."""
        return self._form.read(self.folder, np.asarray(rows, dtype=np.int64))
