"""Who is aimed at."""

import torch
from torch import Tensor

from deitsec import ops


def choose_targets(
    policy: str | int, labels: Tensor, clean_logits: Tensor, sample_ids: Tensor, seed: int
) -> Tensor:
    """Targets of each row by a policy of `Attack.target`.

    Args:
        policy: `least-likely`, `next`, `random` or a class index.
        labels: (B,) int64.
        clean_logits: (B, K).
        sample_ids: (B,) int64; a random target depends on it and the seed only.
        seed: seed of the run.

    Returns:
        (B,) int64, never equal to the label.

    Raises:
        ValueError: a class index out of range or equal to a label.
    """
    num_classes = clean_logits.shape[1]
    if isinstance(policy, int):
        if not 0 <= policy < num_classes:
            raise ValueError(f"target must be in 0 to {num_classes - 1}, got {policy}")
        targets = torch.full_like(labels, policy)
        check_targets(targets, labels, num_classes)
        return targets
    if policy == "next":
        return (labels + 1) % num_classes
    if policy == "least-likely":
        others = clean_logits.float().scatter(1, labels[:, None], float("inf"))
        return others.argmin(1)
    draw = ops.random_start(
        torch.full_like(labels, 0.5, dtype=torch.float32)[:, None], sample_ids, 0.5, seed, 1
    )[:, 0]
    offset = (draw * (num_classes - 1)).long().clamp(max=num_classes - 2)
    return (labels + 1 + offset) % num_classes


def likeliest_targets(num_targets: int, labels: Tensor, clean_logits: Tensor) -> Tensor:
    """The classes that the model finds likeliest after the label, the likeliest first.

    Returns:
        (B, T) int64 with T = min(num_targets, K - 1).
    """
    others = clean_logits.float().scatter(1, labels[:, None], -torch.inf)
    number = min(num_targets, clean_logits.shape[1] - 1)
    return others.topk(number, dim=1).indices


def check_targets(targets: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise a ValueError for a target out of range or equal to its row's label."""
    outside = ((targets < 0) | (targets >= num_classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"targets must be in 0 to {num_classes - 1}, got {int(targets[row])} in row {row}"
        )
    equal = (targets == labels).nonzero()
    if len(equal):
        row = int(equal[0])
        raise ValueError(
            f"the target must differ from the label, got {int(targets[row])} for both in row {row}"
        )
