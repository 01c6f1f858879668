"""Data-parallel training in the processes that Accelerate found itself in."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from deitsec.training.processes import Processes

T = TypeVar("T")


class Accelerated(Processes):
    """Processes that each take their share of every batch and average their gradients.

    The mean of the gradients is taken after the backward pass, in one message, and the model is not
    wrapped: so every way of training works as it is, those that take several forward passes, ask
    for one head or freeze the weights meanwhile included. What is given up is the overlap of the
    message with the backward pass. The running statistics of batch norms go along in every step: a
    step finds what the last one left, whether the run was saved or judged in between or not.

    Args:
        device: where this process trains.

    Raises:
        ImportError: if Accelerate is not installed.
        ValueError: if the device is a GPU that another process of this machine has too.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            import accelerate
            from accelerate import utils
        except ImportError as error:
            raise ImportError(
                "training in several processes needs Accelerate: pip install 'deitsec[accelerate]'"
            ) from error
        self._utils = cast(Any, utils)
        state = accelerate.PartialState(cpu=device.type == "cpu")
        if device.type == "cuda" and device != state.device:
            raise ValueError(
                f"process {state.process_index} must train on {state.device}, got a model on "
                f"{device}: move it there, or give no device"
            )
        self.count, self.rank = int(state.num_processes), int(state.process_index)

    def gather(self, share: Tensor) -> Tensor:
        """See `Processes`."""
        return self._utils.gather(share)

    def mean(self, value: Tensor) -> Tensor:
        """See `Processes`."""
        return self._utils.reduce(value, "mean")

    def average(self, model: nn.Module) -> None:
        """See `Processes`."""
        weights = {id(weight): weight for weight in model.parameters()}
        gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
        kept = model.state_dict(keep_vars=True).values()
        statistics = [t for t in kept if id(t) not in weights and t.is_floating_point()]
        self._average(gradients + statistics)

    def from_first(self, make: Callable[[], T]) -> T:
        """See `Processes`."""
        made = [make() if self.first else None]
        self._utils.broadcast_object_list(made)
        return cast(T, made[0])

    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over the processes, in one message."""
        if not tensors:
            return
        flat = self.mean(torch.cat([tensor.flatten() for tensor in tensors]))
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, mean in zip(tensors, flat.split(sizes), strict=True):
            tensor.copy_(mean.view_as(tensor))
