"""A cheaper evaluation that is held to agree with AutoAttack, and is not called that."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from deitsec.attacks.attack import Attack, check_budget
from deitsec.attacks.autoattack import AutoAttack, AutoAttackL1, AutoAttackL2
from deitsec.attacks.cascade import Cascade
from deitsec.types import Evidence, Traits

# by yield: the one that breaks most in its first steps first
_WITH_GRADIENTS = ("apgd-ce", "apgd-t")
_LOOK = 1  # the series of its draws; the whole protocol has 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliable(Cascade):
    """The gradient attacks of AutoAttack, a look for masked gradients, and the rest where needed.

    Where gradients are of use, FAB-T and Square hardly break a row that APGD on
    cross-entropy and on the targeted DLR loss left standing, and take most of the time: 6,800 of a
    robust row's 7,810 forward passes. So they run only where there is reason to distrust gradients:
    where a short run of Square breaks a row that gradients did not, where every gradient of a row
    was 0, or where one was not finite. The rows that were attacked together then go through the
    rest of AutoAttack's standard protocol, whose Square makes other draws than the look did.

    That decision is one for all rows of a wave, which are those that the engine holds at once: one
    row that gives reason takes the others of its wave along, and none of another wave. So whether
    FAB-T and the long Square are run on a row, and with that its verdict, may hang on the rows
    beside it and on the batch size. A row that falls to the first stages falls in any company.

    Attributes:
        eps: L-infinity radius on images in [0, 1].
        n_queries: forward passes of the look by Square.
    """

    name: ClassVar[str] = "reliable"
    traits: ClassVar[Traits] = Traits(norm="linf", targeted=False, deterministic=False)
    protocol: ClassVar[type[AutoAttack]] = AutoAttack

    eps: float = 8 / 255
    n_queries: int = 200

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        check_budget(self.name, self.eps, norm=self.traits.norm)
        if self.n_queries < 1:
            raise ValueError(f"{self.name}: n_queries must be at least 1, got {self.n_queries}")

    @property
    def stages(self) -> tuple[Attack, ...]:
        """The attacks by gradients, and the look by queries alone."""
        gradients = self.protocol(eps=self.eps, only="+".join(_WITH_GRADIENTS)).stages
        look = dataclasses.replace(
            self.protocol(eps=self.eps).square(), n_queries=self.n_queries, series=_LOOK
        )
        return (*gradients, look)

    def second_opinion(self, evidence: Evidence) -> tuple[Attack, ...]:
        """What else AutoAttack runs, where gradients may have been masked."""
        if evidence.fell[-1] == evidence.undriven == evidence.non_finite == 0:
            return ()
        whole = self.protocol(eps=self.eps)
        names = [name for name in whole.names if name not in _WITH_GRADIENTS]
        return dataclasses.replace(whole, only="+".join(names)).stages


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliableL2(Reliable):
    """The same in L2; see `Reliable`.

    Attributes:
        eps: L2 radius on images in [0, 1].
    """

    name: ClassVar[str] = "reliable_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", targeted=False, deterministic=False)
    protocol: ClassVar[type[AutoAttack]] = AutoAttackL2

    eps: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliableL1(Reliable):
    """The same in L1; see `Reliable`.

    Attributes:
        eps: L1 radius on images in [0, 1].
    """

    name: ClassVar[str] = "reliable_l1"
    traits: ClassVar[Traits] = Traits(norm="l1", targeted=False, deterministic=False)
    protocol: ClassVar[type[AutoAttack]] = AutoAttackL1

    eps: float = 12.0
