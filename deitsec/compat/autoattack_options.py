"""What people set on the attacks of the package `autoattack`, and what that says in ours."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from deitsec.attacks.attack import Attack
from deitsec.attacks.autoattack import VERSIONS, AutoAttackL1, AutoAttackL2
from deitsec.attacks.autoattack import AutoAttack as Protocol

PROTOCOLS: dict[str, type[Protocol]] = {"Linf": Protocol, "L2": AutoAttackL2, "L1": AutoAttackL1}


class _Options:
    """Options of one attack: those that the class names may be set, and no other.

    Raises:
        AttributeError: another name, on setting it.
    """

    ours: ClassVar[Mapping[str, str]]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.ours:
            raise AttributeError(
                f"{type(self).__name__} has no option {name!r} here; known: {', '.join(self.ours)}"
            )
        object.__setattr__(self, name, value)

    def said(self, *dropped: str) -> dict[str, Any]:
        """The same in our words, without some."""
        return {
            ours: vars(self)[theirs] for theirs, ours in self.ours.items() if ours not in dropped
        }


@dataclass
class APGDOptions(_Options):
    """APGD on cross-entropy and on DLR; `use_largereps` is for L1."""

    ours: ClassVar[Mapping[str, str]] = {
        "n_restarts": "restarts",
        "n_iter": "steps",
        "eot_iter": "eot_iter",
        "thr_decr": "rho",
        "use_largereps": "wider",
    }

    n_restarts: int = 5
    n_iter: int = 100
    eot_iter: int = 1
    thr_decr: float = 0.75
    use_largereps: bool = False


@dataclass
class TargetedAPGDOptions(APGDOptions):
    """APGD on the targeted DLR loss."""

    ours: ClassVar[Mapping[str, str]] = {**APGDOptions.ours, "n_target_classes": "num_targets"}

    n_restarts: int = 1
    n_target_classes: int = 9


@dataclass
class FABOptions(_Options):
    """FAB, and FAB-T, which starts once from the image whatever `n_restarts`."""

    ours: ClassVar[Mapping[str, str]] = {
        "n_restarts": "restarts",
        "n_iter": "steps",
        "alpha_max": "alpha_max",
        "eta": "eta",
        "beta": "beta",
        "n_target_classes": "num_targets",
    }

    n_restarts: int = 5
    n_iter: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    n_target_classes: int = 9


@dataclass
class SquareOptions(_Options):
    """Square."""

    ours: ClassVar[Mapping[str, str]] = {
        "n_queries": "n_queries",
        "p_init": "p_init",
        "n_restarts": "restarts",
        "rescale_schedule": "rescale_schedule",
    }

    n_queries: int = 5000
    p_init: float = 0.8
    n_restarts: int = 1
    rescale_schedule: bool = False


class AttackOptions:
    """The attacks of an `AutoAttack`, each with its options, as a version has them.

    Args:
        norm: `Linf`, `L2` or `L1`.
        version: `standard`, `plus`, `rand` or `custom`.
    """

    def __init__(self, norm: str, version: str) -> None:
        self.norm = norm
        self.apgd, self.apgd_targeted = APGDOptions(), TargetedAPGDOptions()
        self.fab, self.square = FABOptions(), SquareOptions()
        wide = norm == "L1" and version == "standard"
        if wide:
            self.apgd.use_largereps = self.apgd_targeted.use_largereps = True
            self.apgd_targeted.n_target_classes = 5
        if version == "rand" or (version == "standard" and not wide):
            self.apgd.n_restarts = 1
        if version == "rand":
            self.apgd.eot_iter = 20
        if version == "standard":
            self.fab.n_restarts = 1

    def stage(self, name: str, eps: float) -> Attack:
        """Our attack of this name.

        Raises:
            ValueError: an option out of range, or `use_largereps` outside of L1.
        """
        for options in (self.apgd_targeted, self.fab):
            if options.n_target_classes < 1:
                given = options.n_target_classes
                raise ValueError(f"AutoAttack: n_target_classes must be at least 1, got {given}")
        # what no option says is as the protocol has it
        stage = PROTOCOLS[self.norm](eps=eps, only=name).stages[0]
        if name == "square":
            return dataclasses.replace(stage, **self.square.said())
        if name in ("fab", "fab-t"):
            own = {"num_targets": 0} if name == "fab" else {"restarts": 1}
            return dataclasses.replace(stage, **(self.fab.said() | own))
        options = self.apgd_targeted if name == "apgd-t" else self.apgd
        if self.norm == "L1":
            return dataclasses.replace(stage, **options.said())
        if options.use_largereps:
            raise ValueError(f"AutoAttack: use_largereps goes with norm='L1', got {self.norm!r}")
        return dataclasses.replace(stage, **options.said("wider"))


def checked_names(names: Any, version: str) -> list[str]:
    """Names of attacks, in order.

    Raises:
        ValueError: none, or one that there is not.
    """
    known = VERSIONS["plus"]
    if isinstance(names, str) or not names or any(name not in known for name in names):
        raise ValueError(
            f"AutoAttack: attacks_to_run must be a list of some of {', '.join(known)}, "
            f"got {names!r} (version={version!r})"
        )
    return list(names)
