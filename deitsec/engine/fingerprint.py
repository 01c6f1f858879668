"""Whether a model still is what a CUDA graph was captured of."""

from typing import Any

from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """What changes whenever a graph of the model would be stale.

    A graph reads weights where they were when it was captured, and holds the numbers that the
    Python code of the model computed with. New values in the same memory, as an optimiser or
    `load_state_dict` write them, change nothing; other memory, another module, hook or plain
    attribute (a head, a temperature) does. Attributes of other kinds are not looked at.
    """
    return tuple(
        (
            id(module),
            tuple((name, value) for name, value in vars(module).items() if type(value) in _PLAIN),
            tuple(map(_place, module.parameters(recurse=False))),
            tuple(map(_place, module.buffers(recurse=False))),
            tuple(tuple(getattr(module, hooks)) for hooks in _HOOKS),
        )
        for module in model.modules()
    )


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
