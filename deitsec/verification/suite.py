"""Which attacks a verification runs, and at which eps."""

from collections.abc import Sequence
from dataclasses import dataclass

from deitsec.attacks import Attack, parse_spec
from deitsec.attacks.attack import check_budget
from deitsec.attacks.registry import attack_class
from deitsec.data import DataSource

# what the field uses on such images: Madry et al. (arXiv:1706.06083) on MNIST and CIFAR-10; for the
# digits a tenth of the range, in whole levels of 255, so that nothing is lost in rounding
_DIGITS_EPS, _MNIST_EPS, _PHOTO_EPS = 26 / 255, 0.3, 8 / 255

DEFAULT_ATTACKS = ("fgsm", "pgd", "pgd:target=least-likely")
SWEEP_ATTACKS = ("fgsm", "pgd")
SWEEP_FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """The attacks of a verification.

    Attributes:
        eps: L-infinity radius for the attacks that do not set their own.
        attacks: what is run on every row.
        sweep: attacks that are repeated over eps, without one.
        sweep_eps: the radii, ascending.
    """

    eps: float
    attacks: tuple[Attack, ...]
    sweep: tuple[str, ...] = SWEEP_ATTACKS
    sweep_eps: tuple[float, ...] = ()


def suite_eps(data: DataSource) -> float:
    """The L-infinity radius that the field uses on such data; 8/255 where it has no habit."""
    channels, height, width = data.test.shape
    if channels == 1 and data.name == "digits":
        return _DIGITS_EPS
    return _MNIST_EPS if (channels, height, width) == (1, 28, 28) else _PHOTO_EPS


def default_suite(
    data: DataSource,
    *,
    attacks: Sequence[str | Attack] = (),
    eps: float | None = None,
    sweep: bool = True,
) -> Suite:
    """Make the suite for a data source.

    Args:
        data: decides eps where none is given.
        attacks: specs or attacks; none takes FGSM, PGD and PGD at the least-likely class.
        eps: L-infinity radius for the specs that do not set one.
        sweep: whether eps is swept too.

    Raises:
        ValueError: a spec that is not understood, or an eps out of range.
    """
    radius = suite_eps(data) if eps is None else eps
    radii = tuple(dict.fromkeys(min(1.0, radius * factor) for factor in SWEEP_FACTORS))
    return Suite(
        eps=radius,
        attacks=parse_attacks(attacks or DEFAULT_ATTACKS, eps=radius),
        sweep_eps=radii if sweep else (),
    )


def parse_attacks(attacks: Sequence[str | Attack], *, eps: float) -> tuple[Attack, ...]:
    """Make attacks of specs; `eps` is for those that set none.

    Raises:
        ValueError: a spec that is not understood, or an eps out of range.
    """
    check_budget("eps", eps)
    return tuple(_attack(item, eps) if isinstance(item, str) else item for item in attacks)


def _attack(spec: str, eps: float) -> Attack:
    """An attack of a spec; a radius in L-infinity means nothing to one in another norm."""
    norm = attack_class(spec.partition(":")[0].strip()).traits.norm
    return parse_spec(spec, eps=eps) if norm == "linf" else parse_spec(spec)
