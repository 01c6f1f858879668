"""The batches of a run, in an order that a stopped run takes up where it was."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec.data import ImageSet, to_float
from deitsec.training.augment import changed, draw_changes
from deitsec.training.config import FitConfig
from deitsec.training.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Rows of the training split as augmented batches on the device.

    Attributes:
        train: where they are.
        rows: which of them, ascending.
        config: batch size, augmentation and layout.
        device: where the batches go.
        processes: that share each batch.
    """

    train: ImageSet
    rows: Tensor
    config: FitConfig
    device: torch.device
    processes: Processes

    def __post_init__(self) -> None:
        """Check that the processes can share a batch."""
        size, count = min(self.config.batch_size, len(self.rows)), self.processes.count
        if size % count:
            raise ValueError(
                f"batch_size must be a multiple of the {count} processes, got a batch of {size}"
            )

    @property
    def batches(self) -> int:
        """Batches of an epoch; the short one at its end is left out."""
        return max(1, len(self.rows) // self.config.batch_size)

    def order(self, generator: torch.Generator) -> Tensor:
        """The rows in a fresh order."""
        return self.rows[torch.randperm(len(self.rows), generator=generator)]

    def batch(
        self, order: Tensor, number: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and rows of this process's share of a batch.

        The moves of the whole batch are drawn in every process, so that the same images are trained
        on whatever their number.

        Args:
            order: of the epoch.
            number: of the batch in it, from 0.
            generator: of the augmentation.
        """
        size = self.config.batch_size
        whole = order[number * size : (number + 1) * size]
        rows = self.processes.share(whole)
        images = to_float(self.train.images(rows).to(self.device))
        if self.config.augmentation is not None:
            draws = draw_changes(len(whole), self.config.augmentation, generator)
            draws = self.processes.share(draws.T).T
            images = changed(images, self.config.augmentation, draws)
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, self.train.labels[rows].to(self.device), rows.to(self.device)
