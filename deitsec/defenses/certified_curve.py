"""How many images are right and certified, by radius."""

from collections.abc import Sequence

from torch import Tensor

from deitsec.defenses.smoothing import Certificates


def certified_accuracy(
    certificates: Certificates, labels: Tensor, radii: Sequence[float]
) -> list[float]:
    """Share of images whose certified class is the label and whose radius reaches each radius.

    At 0 it is the share that is right and not abstained on. (Cohen et al., arXiv:1902.02918,
    section 4: the "approximate certified test set accuracy".)

    Args:
        certificates: of N images.
        labels: (N,) integer classes.
        radii: L2 radii on images in [0, 1], >= 0.

    Raises:
        ValueError: a negative radius, or labels of another number.
    """
    right = _right(certificates, labels)
    if any(not radius >= 0 for radius in radii):
        raise ValueError(f"radii must be >= 0, got {list(radii)}")
    return [
        (right & (certificates.radii >= radius)).double().mean().item()
        for radius in map(float, radii)
    ]


def average_certified_radius(certificates: Certificates, labels: Tensor) -> float:
    """Mean radius, counted as 0 where the class is wrong (Zhai et al., arXiv:2001.02378).

    It is the area under the curve of `certified_accuracy`.
    """
    return (certificates.radii * _right(certificates, labels)).mean().item()


def _right(certificates: Certificates, labels: Tensor) -> Tensor:
    if labels.shape != certificates.classes.shape:
        expected = tuple(certificates.classes.shape)
        raise ValueError(f"labels must be {expected}, got {tuple(labels.shape)}")
    return certificates.classes == labels.cpu()
