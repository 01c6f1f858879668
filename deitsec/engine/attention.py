"""Which kernels a model's attention runs on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_ON_CPU = ("flash", "math")
BACKENDS = (*_SDPA, "matmul")
Attention = Literal["auto", "default", "flash", "cudnn", "efficient", "math", "matmul"]
ATTENTIONS = ("auto", "default", *BACKENDS)


def matmul_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention as it is written: two matrix products around a softmax, in the dtype of `query`.

    On a CPU with bf16 instructions this is several times faster than PyTorch's kernels, which work
    on bf16 tiles in fp32: see docs/architecture.md, "How the engine goes".
    """
    weights = ((query * scale) @ key.transpose(-2, -1)).softmax(-1)
    return weights @ value


class _Matmul(TorchFunctionMode):
    """Puts `matmul_attention` in place of attention without mask and dropout."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and is_plain(args, kwargs):
            return matmul_attention(*given_by_name(args, kwargs))
        return func(*args, **kwargs)


def given_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Query, key, value and scale of a call of scaled_dot_product_attention."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    query: Tensor = given["query"]
    scale: float | None = given.get("scale")
    return query, given["key"], given["value"], query.shape[-1] ** -0.5 if scale is None else scale


def is_plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether nothing beyond query, key, value and scale is asked for."""
    if len(args) > 3:
        return False
    if kwargs.get("attn_mask") is not None:  # a tensor, which has no truth
        return False
    return not any(kwargs.get(name) for name in ("dropout_p", "is_causal", "enable_gqa"))


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
    names = [name for name, backend in _SDPA.items() if int(backend.value) == number]
    shape = "x".join(map(str, query.shape))
    dtype = str(query.dtype).removeprefix("torch.")
    return (names[0] if names else f"number {number}"), f"{shape} {dtype}"


def attention_by(name: str) -> Callable[[], AbstractContextManager[object]]:
    """A setting that makes attention run on the kernels of this name."""
    if name == "matmul":
        return _Matmul
    return lambda: sdpa_kernel([_SDPA[name]])


def attention_on(device: torch.device) -> list[str]:
    """The names that can be tried on a device."""
    return [name for name in BACKENDS if device.type == "cuda" or name in (*_ON_CPU, "matmul")]
