"""The model as it is, asked for logits only: what a success has to stand up to."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from deitsec.engine.checked_model import CheckedModel
from deitsec.engine.driver import Driver
from deitsec.engine.ladder import Ladder
from deitsec.types import IN_FLIGHT, InFlight

# no step of an attack draws from it, so that a model with random numbers is judged by fresh ones
_STREAM = (1 << 31) - 1


class ExactModel:
    """The caller's model without any shortcut: fp32 (or what its weights are), eager, no gradient.

    Args:
        model: what is asked.
        module: the same, unchecked.
        ladder: how many rows go together.
        seed: of the draws of a model that makes some.
    """

    def __init__(self, model: CheckedModel, module: nn.Module, ladder: Ladder, seed: int) -> None:
        self.model = model
        self.module = module
        self.ladder = ladder
        self.seed = seed

    def __call__(self, x: Tensor, sample_ids: Tensor) -> Tensor:
        """(B, K) logits at `x`, in full precision."""
        return torch.cat(list(self._pieces(x, sample_ids)))

    def as_driver(self) -> Driver:
        """The same model, to take steps with."""
        return Driver(self.model, module=self.module)

    def _pieces(self, x: Tensor, sample_ids: Tensor) -> Iterator[Tensor]:
        start = 0
        for rows, size in self.ladder.start(x.shape[0]):
            piece, ids = x[start : start + rows], sample_ids[start : start + rows]
            if size > rows:
                index = torch.arange(size, device=x.device) % rows
                piece, ids = piece[index], ids[index]
            token = IN_FLIGHT.set(InFlight(sample_ids=ids, seed=self.seed, stream=_STREAM))
            try:
                with torch.no_grad():
                    yield self.model(piece)[:rows]
            finally:
                IN_FLIGHT.reset(token)
            start += rows
