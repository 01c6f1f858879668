"""Looks into a model while it answers: the heads of a distilled network, the attention maps."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from deitsec.engine.attention import given_by_name, is_plain
from deitsec.engine.checked_model import ModelError
from deitsec.types import Part, Parts


def look_into(model: nn.Module, x: Tensor, part: Part) -> Parts:
    """The logits of `x`, and a part of what the model computes on the way.

    Args:
        model: not compiled.
        x: (B, C, H, W).
        part: `heads` needs a `deitsec.Classifier` of a distilled network, `attention` a model whose
            blocks call scaled_dot_product_attention without mask and dropout, or pass their softmax
            through a layer named `attn_drop`, as timm's do.

    Raises:
        ModelError: the model has no such part.
    """
    if part == "heads":
        return _heads(model, x)
    if part == "attention":
        return _attention(model, x)
    return Parts(logits=model(x))


def _heads(model: nn.Module, x: Tensor) -> Parts:
    heads = _two_heads(model)
    found: dict[nn.Module, list[Tensor]] = {head: [] for head in heads}

    def note(module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        found[module].append(output)

    hooks = [head.register_forward_hook(note) for head in heads]
    try:
        logits: Tensor = model(x)  # as it answers, with all that stands before and after it
    finally:
        for hook in hooks:
            hook.remove()
    first, second = (found[head] for head in heads)
    if [len(output) for output in first + second] != [len(x)] * 2:
        raise ModelError(
            "attacks on one head need a model that asks each of its two heads once about every "
            "image; EOT asks several times"
        )
    return Parts(logits=logits, heads=(first[0], second[0]))


def _two_heads(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The layers that give class logits and distillation logits."""
    for module in model.modules():
        if getattr(module, "distilled", False) and hasattr(module, "forward_heads"):
            classifier: Any = module
            return classifier.module.head, classifier.module.head_dist
    raise ModelError(
        "the model has no class head and distillation head; attacks on one head need a "
        "deitsec.Classifier of a distilled network, such as deit_micro"
    )


def _attention(model: nn.Module, x: Tensor) -> Parts:
    maps: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        maps.append(args[0])

    hooks = [
        module.register_forward_pre_hook(note)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "attn_drop"
    ]
    try:
        with _Softmax(maps):
            logits: Tensor = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    found = tuple(m for m in maps if m.ndim == 4 and m.shape[0] == x.shape[0])
    if not found:
        raise ModelError(
            "the model computes no attention of (rows, heads, tokens, tokens); attacks on "
            "attention need a vision transformer"
        )
    return Parts(logits=logits, attention=found)


class _Softmax(TorchFunctionMode):
    """Computes attention as it is written, and notes the softmax."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not is_plain(args, kwargs):
            return func(*args, **kwargs)
        query, key, value, scale = given_by_name(args, kwargs)
        weights = ((query * scale) @ key.transpose(-2, -1)).softmax(-1)
        self.maps.append(weights)
        return weights @ value
