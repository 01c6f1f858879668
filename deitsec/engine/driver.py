"""The model as the steps of an attack ask it: in the precision and form that was prepared."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from deitsec.engine.access import enough_for
from deitsec.engine.checked_model import CheckedModel, ModelError
from deitsec.engine.parts import look_into
from deitsec.types import Part, Parts

Setting = Callable[[], AbstractContextManager[object]]


class Driver:
    """Forward passes and input gradients.

    Args:
        model: what is asked.
        scaled: whether gradients pass through half precision, and are scaled row by row so that
            those of a confident row do not vanish.
        memory_format: layout that the images take.
        settings: what is in force while the model is asked, forward and backward.
        module: the same model, not compiled, for a look into it.
    """

    def __init__(
        self,
        model: CheckedModel,
        *,
        scaled: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        settings: tuple[Setting, ...] = (),
        module: nn.Module,
    ) -> None:
        self.model = model
        self.module = module
        self.scaled = scaled
        self.memory_format = memory_format
        self.settings = settings

    def __call__(self, x: Tensor) -> Tensor:
        """(B, K) logits at `x`, in the precision of the model."""
        with self.in_force():
            return self.model(x.contiguous(memory_format=self.memory_format))

    def parts(self, x: Tensor, part: Part) -> Parts:
        """The logits at `x`, and a part of what the model computes on the way, in the graph.

        Raises:
            ModelError: the model has no such part.
        """
        with self.in_force():
            if part == "logits":
                return Parts(logits=self.model(x.contiguous(memory_format=self.memory_format)))
            return look_into(self.module, x, part)

    @staticmethod
    def widened(logits: Tensor) -> Tensor:
        """Logits of half precision in fp32, so that the loss at least loses nothing."""
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def backward(
        self, output: Tensor, leaf: Tensor, dlogits: Tensor, *, keep: bool = False
    ) -> Tensor:
        """Gradient of the rows' own losses in `leaf`, contiguous, in its dtype.

        Args:
            output: (B, K) what the model gave for `leaf`.
            leaf: (B, C, H, W) images that require a gradient.
            dlogits: (B, K) gradient in the logits, at least fp32.
            keep: whether the graph is needed once more.

        Raises:
            ModelError: the model gives no gradient of its input.
        """
        check_differentiable(output)
        with self.in_force():
            if not self.scaled:
                (grad,) = torch.autograd.grad(
                    output, leaf, dlogits.to(output.dtype), retain_graph=keep
                )
                return grad.contiguous()  # a channels_last model gives its own layout back
            # a power of two: nothing is rounded by it
            largest = dlogits.abs().amax(1, keepdim=True)
            exponent = torch.frexp(torch.where(largest > 0, largest, 1.0)).exponent
            scaled = torch.ldexp(dlogits, -exponent).to(output.dtype)
            (grad,) = torch.autograd.grad(output, leaf, scaled, retain_graph=keep)
            return torch.ldexp(grad.contiguous(), exponent[:, :, None, None])

    def in_force(self) -> AbstractContextManager[object]:
        """The settings that the model is asked under."""
        stack = contextlib.ExitStack()
        for setting in self.settings:
            stack.enter_context(setting())
        return stack


def check_differentiable(output: Tensor) -> None:
    """Raise a ModelError for logits that are not in the graph of the images."""
    if not output.requires_grad:
        raise ModelError(
            "the model's logits do not depend on its input in a differentiable way, which a "
            f"gradient attack needs; {enough_for('scores')}"
        )
