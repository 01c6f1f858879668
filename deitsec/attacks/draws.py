"""Random numbers of attacks: they belong to the sample, the step and their purpose."""

import math

import torch
from torch import Tensor

from deitsec import ops
from deitsec.types import Problem

_HALF_STEP = 2.0**-24  # the draws are multiples of 2**-23: never 0 or 1 with half of that added
# multipliers of splitmix64 (Steele, Lea, Flood 2014), as signed numbers
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def uniform(p: Problem, like: Tensor, stream: int, step: Tensor | None = None) -> Tensor:
    """Draws in (0, 1) of the shape of `like`, at least fp32.

    Args:
        p: whose numbers they are.
        like: (B, ...) tells shape, dtype and device.
        stream: tells the purposes apart within an attack, >= 2: 0 is the L-infinity start's, 1 the
            random target's.
        step: () or (B,) int64, tells one step from another, on the device: a captured step reads
            its counter there. None where an attack draws once.
    """
    return uniform_of(_ids(p, step), like, p.seed, stream)


def uniform_of(ids: Tensor, like: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Draws in (0, 1) of rows that are named by `ids` alone; see `uniform`.

    Args:
        ids: (B,) int64, whose numbers they are.
        like: (B, ...) tells shape, dtype and device.
        seed: of the run.
        stream: 0 to 2**32 - 1; tells the purposes apart.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    middle = torch.full_like(like, 0.5, dtype=wide, memory_format=torch.contiguous_format)
    drawn = ops.random_start(middle, ids, 0.5, seed, stream)
    return drawn * (1 - _HALF_STEP) + _HALF_STEP / 2


def normal(p: Problem, like: Tensor, stream: int, step: Tensor | None = None) -> Tensor:
    """Draws from the standard normal distribution; see `uniform`."""
    return _normal(uniform(p, like, stream, step))


def normal_of(ids: Tensor, like: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Draws from the standard normal distribution; see `uniform_of`."""
    return _normal(uniform_of(ids, like, seed, stream))


def _normal(uniform: Tensor) -> Tensor:
    # as ndtri, to the last digits, and vectorised on a CPU: 0.5 against 2.0 ms for 64 x 784
    return torch.erfinv(2 * uniform - 1) * math.sqrt(2)


def signs(p: Problem, like: Tensor, stream: int, step: Tensor | None = None) -> Tensor:
    """Draws of -1 and 1; see `uniform`."""
    return torch.where(uniform(p, like, stream, step) < 0.5, -1.0, 1.0)


def ids_at(sample_ids: Tensor, step: Tensor) -> Tensor:
    """The identity of each row at a step: a hash of both, without collisions in practice.

    Args:
        sample_ids: (B,) int64.
        step: () or (B,) int64.
    """
    mixed = sample_ids + (step + 1) * _GOLDEN  # wraps around
    mixed = (mixed ^ _shift(mixed, 30)) * _MIX_1
    mixed = (mixed ^ _shift(mixed, 27)) * _MIX_2
    return mixed ^ _shift(mixed, 31)


def _ids(p: Problem, step: Tensor | None) -> Tensor:
    return p.sample_ids if step is None else ids_at(p.sample_ids, step)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical shift to the right of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
