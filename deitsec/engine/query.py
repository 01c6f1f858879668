"""The engine's answers to an attack: gradients and logits, counted and offered to what is kept."""

import contextlib
import warnings
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from deitsec import ops
from deitsec.engine.batch import Batch
from deitsec.engine.driver import Driver, check_differentiable
from deitsec.engine.preference import Preference
from deitsec.types import IN_FLIGHT, Answer, Change, InFlight, Part, Parts

# losses that compare more classes than a small model has, and what takes their place
_FEWEST = {"dlr": 3, "targeted_dlr": 4}


class EngineQuery:
    """Implements `deitsec.types.Query` on a model for one batch.

    The logits of each forward pass tell the success of the iterate they were taken at, so that no
    forward pass is spent on the test alone. The clean image is never kept as an adversarial one.

    Args:
        driver: the model that is asked.
        batch: the rows.
        preference: which of a row's images is kept.

    Attributes:
        clean_logits: (B, K) logits at the clean images, where the attack stood on them.
    """

    def __init__(self, driver: Driver, batch: Batch, *, preference: Preference) -> None:
        self.driver = driver
        self.batch = batch
        self.preference = preference
        self.clean_logits: Tensor | None = None

    def grad(self, x: Tensor, y: Tensor, loss: str = "ce") -> Tensor:
        """Gradient of each row's loss with respect to that row of `x`.

        Raises:
            ModelError: the model gives no gradient of its input, or logits of a wrong shape.
        """
        return self.ask(x, y, loss).grad

    def ask(
        self,
        x: Tensor,
        y: Tensor,
        loss: str = "ce",
        *,
        targets: Tensor | None = None,
        through: Change | None = None,
        offer: bool = True,
    ) -> Answer:
        """Loss, gradient and logits at `x`, of a fused loss; see `deitsec.types.Query`."""
        leaf, output = self._forward(x, through)
        logits = self.driver.widened(output.detach())
        values, dlogits, predicted = _loss(logits, y, loss, targets)
        grad = self.driver.backward(output, leaf, dlogits)
        self._watch(grad.flatten(1), values)
        problem = self.batch.problem
        same = loss == "ce" and y is problem.y and problem.targeted == problem.goal.targeted
        seen = x if through is None else None
        self._record(seen, logits, values if same else None, predicted, offer)
        self.batch.backwards += 1
        return Answer(grad=grad, loss=values, logits=logits)

    def objective(
        self,
        x: Tensor,
        objective: Callable[[Parts], Tensor],
        *,
        part: Part = "logits",
        through: Change | None = None,
        offer: bool = True,
    ) -> Answer:
        """Value and gradient at `x` of a differentiable formula; see `deitsec.types.Query`."""
        if part == "logits":
            leaf, output = self._forward(x, through)
            logits = self.driver.widened(output.detach())
            values, forms = _forms(objective, logits)
            grads = [
                self.driver.backward(output, leaf, form, keep=form is not forms[-1])
                for form in forms
            ]
            number = len(grads)
            grad = torch.stack(grads, 1) if values.ndim == 2 else grads[0]
        else:
            leaf = x.detach().requires_grad_()
            with torch.enable_grad(), self._in_flight():
                seen = leaf if through is None else through(leaf)
                parts = self.driver.parts(seen, part)
                check_differentiable(parts.logits)
                values = objective(parts)
                with self.driver.in_force():
                    grad, number = _gradients(values, leaf)
            logits = self.driver.widened(parts.logits.detach())
            values = values.detach().to(logits.dtype)
        self._watch(grad.flatten(1), values.reshape(len(x), -1).sum(1))
        self._record(x if through is None else None, logits, None, None, offer)
        self.batch.backwards += number
        return Answer(grad=grad, loss=values, logits=logits)

    def jacobian(
        self, x: Tensor, directions: Callable[[Tensor], Tensor], *, offer: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Gradients of several linear forms of the logits; see `deitsec.types.Query`."""
        leaf, output = self._forward(x, None)
        logits = self.driver.widened(output.detach())
        forms = directions(logits)
        number = forms.shape[1]
        grads = torch.stack(
            [
                self.driver.backward(output, leaf, forms[:, j], keep=j < number - 1)
                for j in range(number)
            ],
            1,
        )
        self._watch(grads.flatten(1), logits.sum(1))
        self._record(x, logits, None, None, offer)
        self.batch.backwards += number
        return logits, grads

    def logits(self, x: Tensor, *, offer: bool = True) -> Tensor:
        """(B, K) logits at `x`, without a gradient."""
        with torch.no_grad():
            logits = self.driver.widened(self._ask(x))
        self.batch.kept.finite.logical_and_(logits.sum(1).isfinite())
        self._record(x, logits, None, None, offer)
        return logits

    def predict(self, x: Tensor, *, offer: bool = True) -> Tensor:
        """(B,) int64 predicted classes at `x`."""
        return self.logits(x, offer=offer).argmax(1)

    def _forward(self, x: Tensor, through: Change | None) -> tuple[Tensor, Tensor]:
        """The images as a leaf, and the model's output in its graph."""
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            output = self._ask(leaf if through is None else through(leaf))
        check_differentiable(output)
        return leaf, output

    def _ask(self, x: Tensor) -> Tensor:
        with self._in_flight():
            return self.driver(x)

    @contextlib.contextmanager
    def _in_flight(self) -> Generator[None]:
        """Count a forward pass, and tell a model that draws whose numbers it draws."""
        problem = self.batch.problem
        self.batch.forwards += 1
        flight = InFlight(
            sample_ids=problem.sample_ids, seed=problem.seed, stream=self.batch.forwards
        )
        token = IN_FLIGHT.set(flight)
        try:
            yield
        finally:
            IN_FLIGHT.reset(token)

    def _watch(self, grads: Tensor, values: Tensor) -> None:
        """Note rows whose gradient is not finite, and those that some gradient drives."""
        kept = self.batch.kept
        size = torch.linalg.vector_norm(grads, 1, dim=1)  # NaN and inf survive it
        kept.finite.logical_and_(size.isfinite().logical_and_(values.isfinite()))
        kept.driven.logical_or_(size > 0)

    def _record(
        self,
        x: Tensor | None,
        logits: Tensor,
        values: Tensor | None,
        predicted: Tensor | None,
        offer: bool,
    ) -> None:
        """Offer `x` to what is kept; `values` are cross-entropies at the goal, None where not.

        `x` is None where the model saw it changed: these logits say nothing about it.
        """
        batch = self.batch
        if x is batch.problem.x:
            if self.clean_logits is None:
                self.clean_logits = logits
            batch.kept.make_room(logits)  # now: a captured step cannot
        elif offer and x is not None:
            if values is None or predicted is None:
                # losses of several kinds, or at several classes, cannot be compared
                values, _, predicted = ops.classification_loss(logits, batch.problem.goal.y)
            batch.kept.offer(x, logits, values, predicted, batch.problem, self.preference)
        else:
            batch.kept.make_room(logits)
        batch.kept.clock += 1


def _gradients(values: Tensor, leaf: Tensor) -> tuple[Tensor, int]:
    """Gradients in `leaf` of objectives (B,) or (B, J), and how many those are."""
    if values.ndim == 1:
        (grad,) = torch.autograd.grad(values.sum(), leaf)
        return grad.contiguous(), 1
    number = values.shape[1]
    grads = [
        torch.autograd.grad(values[:, j].sum(), leaf, retain_graph=j < number - 1)[0]
        for j in range(number)
    ]
    return torch.stack(grads, 1), number


def _forms(objective: Callable[[Parts], Tensor], logits: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Values of an objective of the logits, and its gradient in them, one for each value of a row.

    The driver takes these into the image: it knows what half precision would lose of them.
    """
    with torch.enable_grad():
        leaf = logits.requires_grad_()
        values = objective(Parts(logits=leaf))
        columns = values.unbind(1) if values.ndim == 2 else [values]
        forms = [
            torch.autograd.grad(column.sum(), leaf, retain_graph=column is not columns[-1])[0]
            for column in columns
        ]
    logits.requires_grad_(False)
    return values.detach().to(logits.dtype), forms


def _loss(
    logits: Tensor, y: Tensor, loss: str, targets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss that was asked for, or the margin where the model has too few classes for it."""
    if logits.shape[1] >= _FEWEST.get(loss, 0):
        return ops.classification_loss(logits, y, loss, targets)
    warnings.warn(
        f"{loss} compares {_FEWEST[loss]} classes and the model has {logits.shape[1]}: the margin "
        "takes its place",
        stacklevel=2,
    )
    if targets is None:
        return ops.classification_loss(logits, y, "margin")
    ours, aim = y[:, None], targets[:, None]
    gradient = torch.zeros_like(logits).scatter(1, aim, 1.0).scatter(1, ours, -1.0)
    margin = (logits.gather(1, aim) - logits.gather(1, ours))[:, 0]
    return margin, gradient, logits.argmax(1)
