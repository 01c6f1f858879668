"""Models that give an attacker less than gradients: scores only, or labels only."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from deitsec.models.query_count import QueryCount
from deitsec.types import Access

_SURE = 100.0  # logit of the class that a label names: its softmax is 1, and its loss is finite


class BlackBox(nn.Module):
    """Base: a classifier that is asked, and not looked into.

    Every row that it is asked about is counted, those included with which an engine fills a batch:
    its owner would bill them. A copy, shallow or deep, shares the count.

    Args:
        ask: images -> answers, row by row; any callable, and a module is put into eval mode with
            the rest. It is called without autograd.
        num_classes: number of classes, >= 2.
        numpy: whether `ask` takes a NumPy array (B, C, H, W) in place of a tensor.
        name: what messages call it; by default that of the callable.
        budget: most rows that it answers, >= 1; None sets no limit. A batch that would go beyond is
            refused whole, with a `QueryBudgetError`.

    Raises:
        TypeError: `ask` cannot be called, or a budget that is no integer.
        ValueError: num_classes < 2, or budget < 1.
    """

    access: Access

    def __init__(
        self,
        ask: Callable[[Any], Any],
        *,
        num_classes: int,
        numpy: bool = False,
        name: str | None = None,
        budget: int | None = None,
    ) -> None:
        super().__init__()
        if not callable(cast(object, ask)):
            raise TypeError(f"ask must be a callable of images, got {type(ask).__name__}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be >= 2, got {num_classes}")
        self.ask = ask
        self.num_classes = num_classes
        self.numpy = numpy
        self.name = name or getattr(ask, "__name__", type(ask).__name__)
        self.count = QueryCount(budget)
        # a module starts in train mode, which would hide that of the one inside
        self.training = ask.training if isinstance(ask, nn.Module) else False

    @property
    def queries(self) -> int:
        """Rows that were asked about so far."""
        return self.count.asked

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, C, H, W) in [0, 1], without a graph.

        Raises:
            QueryBudgetError: (a ValueError) more rows than the budget has left.
            ValueError: an answer of another shape, or labels out of range.
        """
        self.count.spend(len(images), self.name)
        with torch.no_grad():
            wide = torch.promote_types(images.dtype, torch.float32)
            given = images.detach()
            answer = self.ask(given.to("cpu", wide).numpy() if self.numpy else given)
            answer = torch.as_tensor(answer, device=images.device)
            return self._logits(answer, len(images), wide)

    @abstractmethod
    def _logits(self, answer: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
        """The answer as logits."""


class ScoresOnly(BlackBox):
    """A model whose scores are seen, and not their gradient.

    Args:
        ask: images -> (B, num_classes) logits, or probabilities.
        num_classes, numpy, name, budget: as in `BlackBox`.
        probabilities: whether the scores are probabilities, whose logarithm is taken; 0 counts as
            1e-12.
    """

    access: Access = "scores"

    def __init__(
        self,
        ask: Callable[[Any], Any],
        *,
        num_classes: int,
        numpy: bool = False,
        name: str | None = None,
        budget: int | None = None,
        probabilities: bool = False,
    ) -> None:
        super().__init__(ask, num_classes=num_classes, numpy=numpy, name=name, budget=budget)
        self.probabilities = probabilities

    def _logits(self, answer: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
        if answer.shape != (rows, self.num_classes):
            raise ValueError(
                f"ScoresOnly: the model must return ({rows}, {self.num_classes}) scores, "
                f"got {tuple(answer.shape)}"
            )
        # as precise as they come: a near tie is not to be turned by rounding
        scores = answer.to(torch.promote_types(answer.dtype, dtype))
        return scores.clamp(min=1e-12).log() if self.probabilities else scores


class LabelsOnly(BlackBox):
    """A model of which nothing but the predicted class is seen; the logits name it alone.

    Args:
        ask: images -> (B,) integer classes, or (B, num_classes) scores, of which the largest is
            looked at.
        num_classes, numpy, name, budget: as in `BlackBox`.
    """

    access: Access = "decision"

    def _logits(self, answer: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
        if answer.shape == (rows, self.num_classes):
            answer = answer.argmax(1)
        if answer.shape != (rows,) or answer.is_floating_point():
            raise ValueError(
                f"LabelsOnly: the model must return ({rows},) integer classes or "
                f"({rows}, {self.num_classes}) scores, got {tuple(answer.shape)} {answer.dtype}"
            )
        low, high = int(answer.min()), int(answer.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"LabelsOnly: classes must be in 0 to {self.num_classes - 1}, got {low} to {high}"
            )
        return _SURE * nn.functional.one_hot(answer.long(), self.num_classes).to(dtype)
