"""AutoAttack: an ensemble of parameter-free attacks, in its standard protocols."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from deitsec.attacks.apgd import APGD
from deitsec.attacks.apgd_l1 import APGDL1
from deitsec.attacks.apgd_l2 import APGDL2
from deitsec.attacks.attack import Attack, check_budget
from deitsec.attacks.auto_pgd import AutoPGD
from deitsec.attacks.cascade import Cascade
from deitsec.attacks.fab import FAB, FABL1, FABL2
from deitsec.attacks.square import Square
from deitsec.attacks.square_l1 import SquareL1
from deitsec.attacks.square_l2 import SquareL2
from deitsec.attacks.square_search import SquareSearch
from deitsec.types import Norm, Traits

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
_TARGETS = 9  # at most the classes less one
_RESTARTS = 5
_QUERIES = 5000
_DRAWS = 20  # of a random model, at each point


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoAttack(Cascade):
    """AutoAttack in L-infinity (Croce and Hein, arXiv:2003.01690), for any number of classes.

    `standard` runs APGD on cross-entropy, APGD on the targeted DLR loss at the 9 likeliest classes,
    FAB at each of them, and Square with 5,000 queries. `plus` gives APGD and FAB 5 restarts, and
    adds APGD on the DLR loss and untargeted FAB. `rand` is for models that draw random numbers:
    APGD on cross-entropy and on DLR, with the mean of 20 gradients at each point. With fewer than
    10 classes there are fewer targets; with fewer than 4 (3, for DLR) the margin takes the place of
    the ratios.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        version: `standard`, `plus` or `rand`.
        only: names of attacks to run instead of all of the version's, such as `apgd-ce+square`,
            which is not AutoAttack then.
    """

    name: ClassVar[str] = "autoattack"
    traits: ClassVar[Traits] = Traits(norm="linf", targeted=False, deterministic=False)

    eps: float = 8 / 255
    version: str = "standard"
    only: str | None = None

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, norm=self.traits.norm)
        if self.version not in VERSIONS:
            raise ValueError(
                f"{self.name}: version must be one of {', '.join(VERSIONS)}, got {self.version!r}"
            )
        for asked in self.names:
            if asked not in _STAGES:
                raise ValueError(
                    f"{self.name}: only must name some of {', '.join(_STAGES)}, joined by +, "
                    f"got {self.only!r}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return VERSIONS[self.version] if self.only is None else tuple(self.only.split("+"))

    @property
    def stages(self) -> tuple[Attack, ...]:
        """The attacks, in order."""
        return tuple(_STAGES[asked](self) for asked in self.names)

    def apgd(self, loss: str, *, targeted: bool = False) -> AutoPGD:
        """APGD on a loss, as the version runs it."""
        wide = self.traits.norm == "l1" and self.version == "standard"
        restarts = _RESTARTS if self.version == "plus" or wide else 1
        targets = (_RESTARTS if wide else _TARGETS) if targeted else 0
        options = {"wider": wide} if self.traits.norm == "l1" else {}
        return _APGD[self.traits.norm](
            eps=self.eps,
            loss=loss,
            restarts=1 if targeted else restarts,
            num_targets=targets,
            eot_iter=_DRAWS if self.version == "rand" else 1,
            **options,
        )

    def fab(self, *, targeted: bool) -> FAB:
        """FAB within the ball."""
        restarts, targets = (1, _TARGETS) if targeted else (_RESTARTS, 0)
        return _FAB[self.traits.norm](
            eps=self.eps,
            restarts=restarts,
            num_targets=targets,
            search=0,  # a final search was in FAB's first code, and is not in AutoAttack's
        )

    def square(self) -> SquareSearch:
        """Square with the queries of the protocol."""
        return _SQUARE[self.traits.norm](eps=self.eps, n_queries=_QUERIES)


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoAttackL2(AutoAttack):
    """AutoAttack in L2; see `AutoAttack`.

    Attributes:
        eps: L2 radius on images in [0, 1].
    """

    name: ClassVar[str] = "autoattack_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", targeted=False, deterministic=False)

    eps: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoAttackL1(AutoAttack):
    """AutoAttack in L1 (arXiv:2103.01208); see `AutoAttack`.

    `standard` gives APGD 5 restarts and 5 targets, each from balls of 3 and of 2 eps down.

    Attributes:
        eps: L1 radius on images in [0, 1].
    """

    name: ClassVar[str] = "autoattack_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", targeted=False, deterministic=False)

    eps: float = 12.0


_APGD: dict[Norm, type[AutoPGD]] = {"linf": APGD, "l2": APGDL2, "l1": APGDL1}
_FAB: dict[Norm, type[FAB]] = {"linf": FAB, "l2": FABL2, "l1": FABL1}
_SQUARE: dict[Norm, type[SquareSearch]] = {"linf": Square, "l2": SquareL2, "l1": SquareL1}
_STAGES: dict[str, Callable[[AutoAttack], Attack]] = {
    "apgd-ce": lambda attack: attack.apgd("ce"),
    "apgd-dlr": lambda attack: attack.apgd("dlr"),
    "apgd-t": lambda attack: attack.apgd("targeted_dlr", targeted=True),
    "fab": lambda attack: attack.fab(targeted=False),
    "fab-t": lambda attack: attack.fab(targeted=True),
    "square": AutoAttack.square,
}
