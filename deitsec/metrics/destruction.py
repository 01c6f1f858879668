"""Which share of adversarial images a change of the image, such as a photograph, takes back."""

import torch
from torch import Tensor, nn

from deitsec.engine import AttackResult
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.memory import rows_by_size
from deitsec.models.eot import EOT
from deitsec.models.transforms import Transform
from deitsec.types import IN_FLIGHT, InFlight


def destruction_rate(
    model: nn.Module,
    result: AttackResult,
    transform: Transform,
    *,
    num_samples: int = 8,
    seed: int = 0,
) -> float:
    """Share of the misclassified adversarial images that are right again after a transformation.

    sum C(x) (1 - C(x_adv)) C(T(x_adv)) / sum C(x) (1 - C(x_adv)), where C tells whether the true
    class wins (Kurakin et al., arXiv:1607.02533, section 3). An image that the model got wrong
    before the attack counts neither way. The mean is over images and draws of the transformation;
    the draws belong to the sample ids of the result.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits, that was attacked; left as found.
        result: what an attack on it came to.
        transform: see `deitsec.models.transforms`.
        num_samples: transformations of each image, at least 1.
        seed: of their draws.

    Returns:
        The rate in [0, 1]; NaN where no image is right clean and wrong adversarial.

    Raises:
        ValueError: num_samples below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    fooled = result.clean_correct & (result.logits.argmax(1) != result.labels)
    index = fooled.nonzero()[:, 0]
    if len(index) == 0:
        return float("nan")
    device = next((p.device for p in model.parameters()), result.adv.device)
    seen = EOT(model, transform, num_samples=1)
    back = 0
    with attack_mode(model), calculation(device, deterministic=False), torch.no_grad():
        for rows in index.split(rows_by_size(result.adv.shape[1:])):
            images, labels, ids = (
                given[rows].to(device) for given in (result.adv, result.labels, result.sample_ids)
            )
            for sample in range(num_samples):
                right = _seen_as(seen, images, ids, seed, sample) == labels
                back += int(right.sum())
    return back / (len(index) * num_samples)


def _seen_as(seen: EOT, images: Tensor, ids: Tensor, seed: int, sample: int) -> Tensor:
    """(B,) the class of each image after a draw of its transformation."""
    token = IN_FLIGHT.set(InFlight(sample_ids=ids, seed=seed, stream=sample))
    try:
        return seen(images).argmax(1)
    finally:
        IN_FLIGHT.reset(token)
