"""The engine's answers to an attack: gradients and logits, counted and offered to the keeper."""

import torch
from torch import Tensor

from deitsec import ops
from deitsec.engine.checked_model import CheckedModel, ModelError, check_clean
from deitsec.engine.keeper import Keeper
from deitsec.types import Problem


class EngineQuery:
    """Implements `deitsec.types.Query` on a model for one chunk.

    The logits of each forward pass tell the success of the iterate they were taken at, so that no
    forward pass is spent on the test alone. The clean image is never kept as an adversarial one.

    Args:
        model: what is asked.
        problem: the rows.
        keeper: what is told of every iterate.
        clean_logits: (B, K) logits at the clean images where they are known already.
    """

    def __init__(
        self,
        model: CheckedModel,
        problem: Problem,
        keeper: Keeper,
        clean_logits: Tensor | None = None,
    ) -> None:
        self.model = model
        self.problem = problem
        self.keeper = keeper
        self.clean_logits = clean_logits
        self.backwards = 0

    def grad(self, x: Tensor, y: Tensor, loss: str = "ce") -> Tensor:
        """Gradient of each row's loss with respect to that row of `x`.

        Raises:
            ModelError: the model gives no gradient of its input, or logits of a wrong shape.
        """
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            output = self.model(leaf)
        if not output.requires_grad:
            raise ModelError(
                "the model's logits do not depend on its input in a differentiable way; "
                "a gradient attack needs that"
            )
        logits = output.detach()
        values, dlogits, predicted = ops.classification_loss(logits, y, loss)
        (grad,) = torch.autograd.grad(output, leaf, dlogits)
        grad = grad.contiguous()  # a channels_last model gives its own layout back
        self._record(x, logits, values, predicted)
        self.backwards += 1
        size = torch.linalg.vector_norm(grad.flatten(1), 1, dim=1)  # NaN and inf survive it
        self.keeper.finite &= size.isfinite() & values.isfinite()
        self.keeper.driven |= size > 0
        return grad

    def logits(self, x: Tensor) -> Tensor:
        """(B, K) logits at `x`, without a gradient."""
        with torch.no_grad():
            logits = self.model(x)
        values, _, predicted = ops.classification_loss(logits, self.problem.y)
        self._record(x, logits, values, predicted)
        self.keeper.finite &= values.isfinite()
        return logits

    def ask_clean(self) -> Tensor:
        """(B, K) logits at the clean images; a forward pass only where none was made there yet."""
        if self.clean_logits is None:
            self.clean_logits = self.model.clean(self.problem.x)
            check_clean(self.clean_logits, self.problem.sample_ids)
        return self.clean_logits

    def _record(self, x: Tensor, logits: Tensor, loss: Tensor, predicted: Tensor) -> None:
        if x is not self.problem.x:
            self.keeper.offer(x, logits, loss, predicted, self.backwards)
        elif self.clean_logits is None:
            check_clean(logits, self.problem.sample_ids)
            self.clean_logits = logits
