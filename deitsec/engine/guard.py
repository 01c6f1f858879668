"""Leaves the caller's model as it was found."""

import contextlib
import os
import warnings
from collections.abc import Generator
from typing import Any

import torch
from torch import nn

from deitsec.engine.precision import full_fp32

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@contextlib.contextmanager
def attack_mode(*models: nn.Module) -> Generator[None]:
    """Put the models into eval mode with frozen parameters, and restore everything after.

    Training flags of every module, requires_grad of every parameter and the random number state
    are put back; `.grad` is never touched, since gradients are taken of inputs only.
    """
    modules = [module for model in models for module in model.modules()]
    parameters = [parameter for model in models for parameter in model.parameters()]
    training = [module for module in modules if module.training]
    learnable = [parameter for parameter in parameters if parameter.requires_grad]
    devices = {p.device for p in parameters if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        for model in models:
            model.eval()
        for parameter in learnable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learnable:
                parameter.requires_grad_(True)
            for module in training:
                module.training = True


def warn_of_training(model: nn.Module, stacklevel: int) -> None:
    """Warn of a model in train mode that would act otherwise there; a linear model does not."""
    if any(
        module.training and (isinstance(module, _DROPOUTS) or hasattr(module, "running_mean"))
        for module in model.modules()
    ):
        warnings.warn(
            "the model was in train mode; it is attacked in eval mode and put back after",
            stacklevel=stacklevel + 1,
        )


@contextlib.contextmanager
def calculation(device: torch.device, *, deterministic: bool) -> Generator[None]:
    """Let fp32 be fp32: keep the caller's autocast, TF32 and the like out.

    Asks for deterministic kernels where that is wanted.

    Raises:
        RuntimeError: from PyTorch, at an operation that has no deterministic kernel.
    """
    with torch.autocast(device.type, enabled=False), full_fp32():
        if not deterministic:
            yield
            return
        # what cuBLAS needs to be deterministic; it is read when the first handle is made
        ours = device.type == "cuda" and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        if ours:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        memory: Any = torch.utils.deterministic
        fill = memory.fill_uninitialized_memory
        before = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        benchmark = torch.backends.cudnn.benchmark
        try:
            torch.backends.cudnn.benchmark = False
            torch.use_deterministic_algorithms(True)
            memory.fill_uninitialized_memory = False  # nothing here reads it
            yield
        finally:
            if ours:
                del os.environ["CUBLAS_WORKSPACE_CONFIG"]
            memory.fill_uninitialized_memory = fill
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
