"""Which kernels a model's attention runs on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class _Watch(TorchFunctionMode):
    """Notes the first call of scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention and self.seen is None:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            self.seen = (given["query"], given["key"], given["value"])
        return func(*args, **(kwargs or {}))


def attention_of(ask: Callable[[], object]) -> tuple[str, str] | None:
    """(backend that PyTorch takes, shape) of the attention in what `ask` runs; None without any."""
    with _Watch() as watch:
        ask()
    if watch.seen is None:
        return None
    query, key, value = watch.seen
    number = int(torch.ops.aten._fused_sdp_choice(query, key, value))
    names = [name for name, backend in BACKENDS.items() if int(backend.value) == number]
    shape = "x".join(map(str, query.shape))
    dtype = str(query.dtype).removeprefix("torch.")
    return (names[0] if names else f"number {number}"), f"{shape} {dtype}"


def attention_by(name: str) -> Callable[[], AbstractContextManager[object]]:
    """A setting that makes attention run on the kernels of this name."""
    return lambda: sdpa_kernel([BACKENDS[name]])
