"""The engine's answers to an attack: gradients and logits, counted and offered to what is kept."""

import torch
from torch import Tensor

from deitsec import ops
from deitsec.engine.batch import Batch
from deitsec.engine.checked_model import ModelError
from deitsec.engine.driver import Driver
from deitsec.types import IN_FLIGHT, InFlight


class EngineQuery:
    """Implements `deitsec.types.Query` on a model for one batch.

    The logits of each forward pass tell the success of the iterate they were taken at, so that no
    forward pass is spent on the test alone. The clean image is never kept as an adversarial one.

    Args:
        driver: the model that is asked.
        batch: the rows.
        first: whether a row keeps its first success, and not the one of highest loss.

    Attributes:
        clean_logits: (B, K) logits at the clean images, where the attack stood on them.
    """

    def __init__(self, driver: Driver, batch: Batch, *, first: bool) -> None:
        self.driver = driver
        self.batch = batch
        self.first = first
        self.clean_logits: Tensor | None = None

    def grad(self, x: Tensor, y: Tensor, loss: str = "ce") -> Tensor:
        """Gradient of each row's loss with respect to that row of `x`.

        Raises:
            ModelError: the model gives no gradient of its input, or logits of a wrong shape.
        """
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            output = self._ask(leaf)
        if not output.requires_grad:
            raise ModelError(
                "the model's logits do not depend on its input in a differentiable way; "
                "a gradient attack needs that"
            )
        logits = self.driver.widened(output.detach())
        values, dlogits, predicted = ops.classification_loss(logits, y, loss)
        grad = self.driver.backward(output, leaf, dlogits)
        self._record(x, y, loss, logits, values, predicted)
        kept = self.batch.kept
        kept.clock += 1
        self.batch.backwards += 1
        size = torch.linalg.vector_norm(grad.flatten(1), 1, dim=1)  # NaN and inf survive it
        kept.finite.logical_and_(size.isfinite().logical_and_(values.isfinite()))
        kept.driven.logical_or_(size > 0)
        return grad

    def logits(self, x: Tensor) -> Tensor:
        """(B, K) logits at `x`, without a gradient."""
        with torch.no_grad():
            logits = self.driver.widened(self._ask(x))
        y = self.batch.problem.y
        values, _, predicted = ops.classification_loss(logits, y)
        self._record(x, y, "ce", logits, values, predicted)
        self.batch.kept.finite.logical_and_(values.isfinite())
        return logits

    def _ask(self, x: Tensor) -> Tensor:
        problem = self.batch.problem
        self.batch.forwards += 1
        flight = InFlight(
            sample_ids=problem.sample_ids, seed=problem.seed, stream=self.batch.forwards
        )
        token = IN_FLIGHT.set(flight)
        try:
            return self.driver(x)
        finally:
            IN_FLIGHT.reset(token)

    def _record(
        self, x: Tensor, y: Tensor, loss: str, logits: Tensor, values: Tensor, predicted: Tensor
    ) -> None:
        batch = self.batch
        if x is batch.problem.x:
            if self.clean_logits is None:
                self.clean_logits = logits
            batch.kept.make_room(logits)  # now: a captured step cannot
            return
        if loss != "ce" or not batch.aligned or y is not batch.problem.y:
            # losses of several kinds, or at several classes, cannot be compared
            values, _, predicted = ops.classification_loss(logits, batch.goal.y)
        batch.kept.offer(x, logits, values, predicted, batch.goal, first=self.first)
