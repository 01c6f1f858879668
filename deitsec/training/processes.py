"""The processes that share a training run: one, unless a launcher started more."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Processes:
    """One process, which has every batch to itself; and what more of them have to do.

    Attributes:
        count: how many there are.
        rank: which of them this is, from 0; the first one writes files and tells progress.
    """

    count: int = 1
    rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def share(self, whole: Tensor) -> Tensor:
        """This process's rows of a tensor whose rows all of them share evenly."""
        size = len(whole) // self.count
        return whole[self.rank * size : (self.rank + 1) * size]

    def gather(self, share: Tensor) -> Tensor:
        """The rows of all processes, in their order."""
        return share

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        return value

    def average(self, model: nn.Module) -> None:
        """Give every process the mean gradients and running statistics, of batch norms say."""

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes; the others wait for it."""
        return make()


def find_processes(device: torch.device) -> Processes:
    """The processes that `accelerate launch` or torchrun started together with this one.

    Args:
        device: where this process trains.

    Raises:
        ImportError: if there are several and Accelerate is not installed.
        ValueError: if there are several on one machine and all train on the same GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from deitsec.training.accelerated import Accelerated

    return Accelerated(device)
