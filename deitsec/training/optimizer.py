"""timm's optimizer and learning-rate schedule, set up from a recipe."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn

from deitsec.models.timm_import import import_timm
from deitsec.training.config import FitConfig

# torch's own fused forms: one pass over all weights instead of ten calls for each of them.
_FUSED = {"adam", "adamw", "sgd", "momentum"}
_FUSED_DEVICES = {"cpu", "cuda"}


def build_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """Return timm's optimizer over the trainable weights.

    Weight decay spares biases and norms, and what a network names in `no_weight_decay()`, such as
    the position embedding and the tokens of a DeiT.

    Raises:
        ValueError: if timm knows no such optimizer (the nearest is named), or no weight is
            trainable.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("the model has no trainable weight: every requires_grad is False")
    timm = import_timm("optim")
    known = timm.list_optimizers()
    if config.optimizer not in known:
        (near,) = get_close_matches(config.optimizer, known, n=1, cutoff=0.0)
        raise ValueError(f"unknown optimizer {config.optimizer!r}: the nearest name is {near!r}")
    groups = timm.param_groups_weight_decay(
        model, config.weight_decay, no_weight_decay_list=_spared(model)
    )
    fused = config.optimizer in _FUSED and trainable[0].device.type in _FUSED_DEVICES
    return timm.create_optimizer_v2(
        groups,
        opt=config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        **({"fused": True} if fused else {}),
    )


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: FitConfig, steps_per_epoch: int
) -> Any:
    """Return timm's schedule, to be told the number of updates after each of them."""
    scheduler, _ = import_timm("scheduler").create_scheduler_v2(
        optimizer,
        sched="cosine" if config.schedule == "cosine" else "step",
        num_epochs=config.epochs,
        decay_epochs=config.decay_epochs,
        decay_rate=config.decay_rate if config.schedule == "step" else 1.0,
        warmup_epochs=math.ceil(config.warmup_epochs * steps_per_epoch) / steps_per_epoch,
        warmup_lr=config.lr / max(1.0, config.warmup_epochs * steps_per_epoch),
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler


def _spared(model: nn.Module) -> set[str]:
    """Names of the weights that a network inside of the model wants no decay on."""
    modules = cast(Iterable[tuple[str, Any]], model.named_modules())
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in modules
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
