"""The rows that a caller hands in, checked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack

VARIANT_BIT = 48  # sample ids lie below it, the number of a try above


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Checked inputs of a run, rows first.

    Attributes:
        images: (B, C, H, W) float in [0, 1].
        labels: (B,) int64.
        targets: (B,) int64 or None.
        sample_ids: (B,) int64.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor | None
    sample_ids: Tensor


def check_rows(
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    sample_ids: Tensor | None,
) -> Rows:
    """Check what a caller hands in.

    Raises:
        TypeError: images that are not floating, labels or targets that are not integers.
        ValueError: shapes that do not fit, no rows, images outside [0, 1] or not finite, targets
            missing or not wanted.
    """
    check_images(images)
    rows = len(images)
    labels = _integers("labels", labels, rows)
    if int(labels.min()) < 0:
        row = int((labels < 0).nonzero()[0])
        raise ValueError(f"labels must be >= 0, got {int(labels[row])} in row {row}")
    if targets is not None:
        if not attack.traits.targeted:
            raise ValueError(f"{attack.name} cannot aim at a class; leave targets out")
        targets = _integers("targets", targets, rows)
    elif attack.target is None and not attack.num_targets and not attack.traits.untargeted:
        raise ValueError(f"{attack.name} is targeted only: give targets or set target=")
    if attack.confidence > 0 and targets is None and attack.target is None:
        raise ValueError(
            f"{attack.name}: confidence is for targeted attacks; give targets or set target="
        )
    if sample_ids is None:
        sample_ids = torch.arange(rows, device=images.device)
    sample_ids = _integers("sample_ids", sample_ids, rows)
    outside = (sample_ids < 0) | (sample_ids >= 1 << VARIANT_BIT)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"sample_ids must be in 0 to 2**{VARIANT_BIT} - 1, got {int(sample_ids[row])} "
            f"in row {row}"
        )
    if images.is_inference():
        with torch.inference_mode(False):
            images = images.clone()  # made under inference_mode, it could not be differentiated at
    return Rows(
        images=images.detach().contiguous(), labels=labels, targets=targets, sample_ids=sample_ids
    )


def check_images(images: Tensor) -> None:
    """Raise what `check_rows` raises of images."""
    if not images.is_floating_point():
        raise TypeError(
            f"images must be float in [0, 1], got {images.dtype}; "
            "deitsec.data.to_float turns uint8 into that"
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be (B, C, H, W), got {tuple(images.shape)}")
    if len(images) == 0:
        raise ValueError("images must hold at least one row, got 0")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):  # also false for NaN
        bad = ~((images >= 0) & (images <= 1)).flatten(1).all(1)
        row = int(bad.nonzero()[0])
        raise ValueError(
            "images must be finite and in [0, 1] (normalisation belongs into the model, see "
            f"deitsec.wrap), got {images[row].min().item():g} to {images[row].max().item():g} "
            f"in row {row}"
        )


def _integers(name: str, values: Tensor, rows: int) -> Tensor:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    if values.shape != (rows,):
        raise ValueError(f"{name} must be ({rows},), one a row, got {tuple(values.shape)}")
    return values.detach().to(torch.int64)
