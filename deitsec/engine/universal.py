"""Fits one perturbation to many images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deitsec import ops
from deitsec.attacks.attack import check_budget
from deitsec.attacks.fgsm import FGSM
from deitsec.attacks.universal_perturbation import UniversalPerturbation, projected
from deitsec.engine.checked_model import CheckedModel, ModelError
from deitsec.engine.guard import attack_mode, calculation, warn_of_training
from deitsec.engine.rows import check_rows
from deitsec.types import Norm


@dataclass(frozen=True, kw_only=True, slots=True)
class UniversalFit:
    """How a universal perturbation is fitted (Shafahi et al., arXiv:1811.11304, algorithm 2).

    Stochastic gradient steps on the mean of the clipped cross-entropy, each projected on the ball:
    the clip keeps one image that is fooled already from taking over the gradient of all.

    Attributes:
        eps: radius, on images in [0, 1].
        norm: linf or l2.
        target: class to aim at; None makes the labels lose.
        epochs: times that every image is seen.
        alpha: length of a step, along the sign of the gradient in linf, along the gradient in l2;
            None takes a tenth of eps.
        clip: cross-entropy beyond which an image has no say, where labels are to lose.
        batch_size: images of a step.
        seed: of their order.
    """

    eps: float = 10 / 255
    norm: Norm = "linf"
    target: int | None = None
    epochs: int = 10
    alpha: float | None = None
    clip: float = 9.0
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: an option out of range.
        """
        name = "universal_perturbation"
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"{name}: norm must be linf or l2, got {self.norm!r}")
        check_budget(name, self.eps, norm=self.norm, alpha=self.alpha)
        for what in ("epochs", "batch_size"):
            if getattr(self, what) < 1:
                raise ValueError(f"{name}: {what} must be at least 1, got {getattr(self, what)}")
        if not self.clip > 0:
            raise ValueError(f"{name}: clip must be > 0, got {self.clip}")


def universal_perturbation(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 10 / 255,
    norm: Norm = "linf",
    target: int | None = None,
    epochs: int = 10,
    alpha: float | None = None,
    clip: float = 9.0,
    batch_size: int = 128,
    seed: int = 0,
) -> UniversalPerturbation:
    """Fit one perturbation that fools a model on most images.

    It is the best, by its fooling rate on these images, of those after each epoch; see
    `UniversalFit` for the options. The model is left as it was found.

    Args:
        model: see `Engine`.
        images: (N, C, H, W) float in [0, 1], on any device.
        labels: (N,) integer true classes; rows of the target's class are left out.
        eps, norm, target, epochs, alpha, clip, batch_size, seed: see `UniversalFit`.

    Raises:
        TypeError: images or labels of the wrong dtype.
        ValueError: an option out of range, images outside [0, 1], a target that the model does not
            have or that every image shows.
    """
    fit = UniversalFit(
        eps=eps,
        norm=norm,
        target=target,
        epochs=epochs,
        alpha=alpha,
        clip=clip,
        batch_size=batch_size,
        seed=seed,
    )
    rows = check_rows(FGSM(), images, labels, None, None)
    images, labels = rows.images, rows.labels.to(rows.images.device)
    if target is not None:
        images, labels = images[labels != target], labels[labels != target]
        if len(images) == 0:
            raise ValueError(f"every image shows the target class {target}: nothing is left to fit")
    device = next((p.device for p in model.parameters()), images.device)
    warn_of_training(model, stacklevel=2)
    with (
        torch.inference_mode(False),
        attack_mode(model),
        calculation(device, deterministic=False),
    ):
        return _Fitting(fit, CheckedModel(model, labels), images, labels, device).run()


class _Fitting:
    """A fit under way."""

    def __init__(
        self,
        fit: UniversalFit,
        model: CheckedModel,
        images: Tensor,
        labels: Tensor,
        device: torch.device,
    ) -> None:
        self.fit = fit
        self.model = model
        self.images = images
        self.labels = labels
        self.device = device
        self.before = torch.cat([self._predict(x) for x, _ in self._batches()])
        if fit.target is not None and not 0 <= fit.target < self.classes:
            raise ValueError(f"target must be in 0 to {self.classes - 1}, got {fit.target}")

    def run(self) -> UniversalPerturbation:
        """Fit, and say how well."""
        wide = torch.promote_types(self.images.dtype, torch.float32)
        delta = torch.zeros(self.images.shape[1:], dtype=wide, device=self.device)
        generator = torch.Generator().manual_seed(self.fit.seed)
        best, rates = delta, list[float]()
        for _ in range(self.fit.epochs):
            order = torch.randperm(len(self.images), generator=generator)
            for x, y in self._batches(order):
                delta = self._step(delta, x, y)
            rates.append(self._rate(delta))
            if rates[-1] >= max(rates):
                best = delta
        return UniversalPerturbation(
            delta=best.to(self.images.device),
            eps=self.fit.eps,
            norm=self.fit.norm,
            target=self.fit.target,
            fooling_rate=max(rates),
            rates=tuple(rates),
        )

    def _step(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        grad = self._gradient(delta, x, y)
        alpha = self.fit.eps / 10 if self.fit.alpha is None else self.fit.alpha
        if self.fit.norm == "linf":
            change = grad.sign()
        else:
            largest = grad.abs().max()
            grad = grad / torch.where(largest > 0, largest, 1.0)
            size = torch.linalg.vector_norm(grad)
            change = grad / torch.where(size > 0, size, 1.0)
        direction = 1.0 if self.fit.target is None else -1.0
        return projected(delta + direction * alpha * change, self.fit.eps, self.fit.norm)

    def _gradient(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """(C, H, W) sum of the rows' gradients in the perturbation.

        A row whose gradient is not finite has no say, and neither has one beyond the clip.
        """
        moved = x + delta.to(x.dtype)
        leaf = moved.clamp(0, 1).requires_grad_()
        with torch.enable_grad():
            output = self.model(leaf)
        if not output.requires_grad:
            raise ModelError(
                "the model's logits do not depend on its input in a differentiable way"
            )
        logits = output.detach().to(delta.dtype)
        loss, dlogits, _ = ops.classification_loss(logits, y)
        counts = loss.isfinite()
        if self.fit.target is None:
            counts &= loss < self.fit.clip
        (grad,) = torch.autograd.grad(output, leaf, dlogits.to(output.dtype))
        grad = grad.to(delta.dtype)
        counts &= grad.flatten(1).isfinite().all(1)
        inside = (moved >= 0) & (moved <= 1)  # a clipped value does not follow the perturbation
        return torch.where(counts[:, None, None, None] & inside, grad, 0.0).sum(0)

    def _rate(self, delta: Tensor) -> float:
        """Share of the images whose answer changes, or becomes the target."""
        after = torch.cat(
            [self._predict((x + delta.to(x.dtype)).clamp(0, 1)) for x, _ in self._batches()]
        )
        if self.fit.target is None:
            return (after != self.before).double().mean().item()
        others = self.before != self.fit.target
        won = (after == self.fit.target) & others
        return (won.sum() / others.sum().clamp(min=1)).item()

    def _predict(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.model(x)
        self.classes = logits.shape[1]
        return logits.argmax(1)

    def _batches(self, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and the classes of their loss, where the model is."""
        order = torch.arange(len(self.images)) if order is None else order
        for index in order.split(self.fit.batch_size):
            index = index.to(self.images.device)
            y = self.labels[index]
            if self.fit.target is not None:
                y = torch.full_like(y, self.fit.target)
            yield self.images[index].to(self.device), y.to(self.device)
