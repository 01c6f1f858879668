"""Noise as large as a perturbation: what an attack has to be better than."""

import torch
from torch import Tensor

from deitsec import ops

# keeps these draws apart from those of attacks, which have the seed itself
_SEED = 0x4E_4F_49_53_45
_PLACES, _SIGNS = 0, 1


def noise_of_same_size(clean: Tensor, adv: Tensor, sample_ids: Tensor, *, seed: int = 0) -> Tensor:
    """Shuffle the perturbation of each image over its values, with random signs.

    Every norm stays what it was: a value that would leave [0, 1] is moved the other way, which
    always fits up to a change of 1/2 and is clipped beyond.

    Args:
        clean: (B, C, H, W) in [0, 1].
        adv: (B, C, H, W) in [0, 1].
        sample_ids: (B,) int64; the draws belong to them.
        seed: of the draws.

    Returns:
        (B, C, H, W) in [0, 1], in the dtype of `clean`.
    """
    middle = torch.full_like(clean, 0.5, dtype=torch.float32).contiguous()
    draws = [
        ops.random_start(middle, sample_ids, 0.5, seed ^ _SEED, stream).flatten(1)
        for stream in (_PLACES, _SIGNS)
    ]
    start, change = clean.flatten(1), (adv - clean).flatten(1).abs()
    change = change.gather(1, draws[0].argsort(dim=1, stable=True))
    change = torch.where(draws[1] < 0.5, -change, change)
    moved = start + change
    inside = (moved >= 0) & (moved <= 1)
    return torch.where(inside, moved, start - change).clamp(0, 1).reshape(clean.shape)
