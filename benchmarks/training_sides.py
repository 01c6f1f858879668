"""The sides of a training measurement: ours, tuned PyTorch, and the clean step they are held to."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from deitsec.models import Classifier
from deitsec.training.adversarial import Attacked
from deitsec.training.adversarial_config import AdversarialConfig
from deitsec.training.config import FitConfig
from deitsec.training.method import Batch, ByObjective, Method
from deitsec.training.optimizer import build_optimizer

OURS, TUNED, PLAIN, CLEAN = "deitsec", "eager tuned", "eager as written", "clean step"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One training step that is timed.

    Attributes:
        model: as users have it; every side trains a copy of its own.
        images: (B, C, H, W) in [0, 1].
        labels: (B,) int64.
        config: of the adversarial training.
    """

    model: Classifier
    images: Tensor
    labels: Tensor
    config: AdversarialConfig

    @property
    def model_ratio(self) -> float:
        """What a step costs by its passes, over a clean one: (2 K + 3) / 3.

        A gradient of the weights and one of the activations cost a forward pass each, and an attack
        needs no gradient of the weights.
        """
        return (2 * self.config.num_steps + 3) / 3


def sides(workload: Workload) -> dict[str, Callable[[], Any]]:
    """Every side by name; each call is one step."""
    return {
        CLEAN: clean_step(workload),
        OURS: our_step(workload),
        TUNED: tuned_step(workload),
        PLAIN: plain_step(workload),
    }


def clean_step(workload: Workload) -> Callable[[], Any]:
    """A step of `fit`: the loop's own, without its feed."""
    return _step_of(
        workload,
        ByObjective(lambda model, images, labels, _: F.cross_entropy(model(images), labels)),
    )


def our_step(workload: Workload) -> Callable[[], Any]:
    """A step of `adversarial_fit`: the loop's own, without its feed."""
    return _step_of(workload, Attacked(workload.config, watch=None))  # pyright: ignore[reportArgumentType]


def _step_of(workload: Workload, method: Method) -> Callable[[], Any]:
    model, optimizer, weights = _trained_copy(workload)
    rows = torch.arange(len(workload.images), device=workload.images.device)
    layout = _layout(workload.config.fit)
    images = workload.images.contiguous(memory_format=layout)
    updates = iter(range(1 << 62))

    def step() -> None:
        batch = Batch(
            images=images, labels=workload.labels, rows=rows, epoch=1, update=next(updates)
        )
        _descend(method.loss(model, batch), optimizer, weights, workload.config.fit)

    return step


def tuned_step(workload: Workload) -> Callable[[], Any]:
    """PGD training as fast as plain PyTorch does it: frozen weights, in place, one clamp.

    The same work as ours: the attack in eval mode, the same optimizer, clipping and layout.
    """
    model, optimizer, weights = _trained_copy(workload)
    config = workload.config
    eps, alpha = config.eps, config.step_size
    layout = _layout(config.fit)
    images, labels = workload.images.contiguous(memory_format=layout), workload.labels

    def attack() -> Tensor:
        low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
        x = torch.empty_like(images).uniform_(-eps, eps).add_(images).clamp_(0, 1)
        for _ in range(config.num_steps):
            x.requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
            x.requires_grad_(False)
            x.add_(grad.sign_(), alpha=alpha).clamp_(low, high)
        return x

    def step() -> None:
        model.eval()
        for weight in weights:
            weight.requires_grad_(False)
        x = attack()
        for weight in weights:
            weight.requires_grad_(True)
        model.train()
        _descend(F.cross_entropy(model(x), labels), optimizer, weights, config.fit)

    return step


def plain_step(workload: Workload) -> Callable[[], Any]:
    """PGD training as it is usually written: `backward()` through all weights in train mode."""
    model, optimizer, weights = _trained_copy(workload)
    config = workload.config
    eps, alpha = config.eps, config.step_size
    images, labels = workload.images.contiguous(memory_format=_layout(config.fit)), workload.labels

    def step() -> None:
        delta = torch.empty_like(images).uniform_(-eps, eps).requires_grad_()
        for _ in range(config.num_steps):
            F.cross_entropy(model((images + delta).clamp(0, 1)), labels).backward()
            assert delta.grad is not None
            with torch.no_grad():
                delta.copy_((delta + alpha * delta.grad.sign()).clamp(-eps, eps))
            delta.grad = None
        x = (images + delta.detach()).clamp(0, 1)
        _descend(F.cross_entropy(model(x), labels), optimizer, weights, config.fit)

    return step


def _trained_copy(
    workload: Workload,
) -> tuple[Classifier, torch.optim.Optimizer, list[nn.Parameter]]:
    model = copy.deepcopy(workload.model).train()
    model = model.to(memory_format=_layout(workload.config.fit))
    return model, build_optimizer(model, workload.config.fit), list(model.parameters())


def _layout(config: FitConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format


def _descend(
    loss: Tensor, optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], config: FitConfig
) -> None:
    """What every side does with its loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(weights, config.clip_grad)
    optimizer.step()
