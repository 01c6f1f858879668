"""A copy of a model in another precision or layout, which follows the weights of the original."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Twin(nn.Module):
    """Answers as the original would in half precision, or with its weights laid out otherwise.

    Args:
        original: what is copied; in eval mode.
        dtype: of the weights; None keeps theirs.
        memory_format: layout of the weights of convolutions.
        narrow: whether images are brought to `dtype` before the model sees them. A
            `deitsec.Classifier` wants them in fp32: it normalises first.

    Raises:
        Exception: whatever the model raises when it is copied.
    """

    def __init__(
        self,
        original: nn.Module,
        *,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format = torch.contiguous_format,
        narrow: bool = False,
    ) -> None:
        super().__init__()
        self.module = copy.deepcopy(original).eval().requires_grad_(False)
        self.module.to(memory_format=memory_format)
        if dtype is not None:
            self.module.to(dtype)
        self.narrow = dtype if narrow else None
        self._of: list[nn.Module] = [original]  # in a list, so that it is no child of this module

    def forward(self, x: Tensor) -> Any:
        """Ask the copy."""
        return self.module(x if self.narrow is None else x.to(self.narrow))

    def fits(self) -> bool:
        """Whether the original still has the tensors that were copied; its layers may be others."""
        ours, theirs = self.module.state_dict(), self._of[0].state_dict()
        return list(ours) == list(theirs) and all(
            ours[name].shape == theirs[name].shape for name in ours
        )

    @torch.no_grad()
    def follow(self) -> None:
        """Take over the weights of the original: they may have been trained meanwhile."""
        for ours, theirs in zip(_tensors(self.module), _tensors(self._of[0]), strict=True):
            ours.copy_(theirs)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
