"""One SHA-256 for the weights of a model, whatever file or device they lie on."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.models.classifier import Classifier


def model_sha256(model: nn.Module) -> str:
    """Hash the names, dtypes, shapes and bytes of a model's state dict, in the order of the names.

    The value is the same before saving and after loading, on every device and memory layout. Of a
    Classifier, the wrapped network is hashed.

    Args:
        model: a Classifier or any module.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: if the state dict holds something other than tensors.
    """
    return state_sha256(tensors_of(model))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module, or of the network that a Classifier wraps.

    Raises:
        TypeError: if it holds something other than tensors.
    """
    state: dict[str, Any] = network_of(model).state_dict()
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise TypeError(
            f"the state dict must hold tensors only, got others at {', '.join(others[:5])}"
        )
    return state


def network_of(model: nn.Module) -> nn.Module:
    """Return the network that a Classifier wraps, or the module itself."""
    return model.module if isinstance(model, Classifier) else model


def state_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors as `model_sha256` does."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
