"""Applies a universal perturbation that was fitted before."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.attacks.universal_perturbation import UniversalPerturbation
from deitsec.types import SHARED, Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class UniversalState(State):
    """State with what is to be added.

    Attributes:
        delta: (C, H, W), the same for all rows.
    """

    delta: Tensor = field(metadata=SHARED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Universal(Attack):
    """One perturbation for all images, in L-infinity (Moosavi-Dezfooli, arXiv:1610.08401).

    It is fitted by `deitsec.universal_perturbation` and saved; here it is added to every image,
    and asks nothing of the model. Its radius is that of the file.

    Attributes:
        file: what `UniversalPerturbation.save` wrote.
    """

    name: ClassVar[str] = "universal"
    traits: ClassVar[Traits] = Traits(norm="linf", needs="decision", iterative=False)

    file: str = field(default="", metadata={"made_first": True})

    def __post_init__(self) -> None:
        """Validate the configuration.

        Raises:
            ValueError: no such file, or a perturbation of another norm or for another target.
        """
        Attack.__post_init__(self)
        if not self.file:
            raise ValueError(
                f"{self.name}: file= must name a saved perturbation; "
                "deitsec.universal_perturbation(...).save(file) makes one"
            )
        perturbation = self.perturbation()
        if perturbation.norm != self.traits.norm:
            name = "universal" if perturbation.norm == "linf" else f"universal_{perturbation.norm}"
            raise ValueError(
                f"{self.name}: {self.file} is in {perturbation.norm}, use {name}:file={self.file}"
            )
        aim = perturbation.target
        if isinstance(self.target, int) and aim is not None and aim != self.target:
            raise ValueError(f"{self.name}: {self.file} aims at class {aim}, got {self.target}")

    def perturbation(self) -> UniversalPerturbation:
        """Read the file."""
        try:
            return UniversalPerturbation.load(self.file)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    @property
    def radius(self) -> float:
        """Distance up to which a perturbation counts: that of the file."""
        return self.perturbation().eps

    def init(self, p: Problem) -> UniversalState:
        """Start at the image.

        Raises:
            ValueError: images of another shape than those it was fitted on.
        """
        delta = self.perturbation().delta.to(p.x.device)
        if delta.shape != p.x.shape[1:]:
            raise ValueError(
                f"{self.name}: {self.file} is for images of {tuple(delta.shape)}, got "
                f"{tuple(p.x.shape[1:])}"
            )
        return UniversalState(x=p.x, delta=delta)

    def plan(self) -> Plan:
        """Return the only step."""
        return [(self.step, 1)]

    def step(self, p: Problem, s: UniversalState, query: Query) -> UniversalState:
        """Add the perturbation."""
        return s.replace(x=(p.x + s.delta).clamp(0, 1).to(p.x.dtype))


@dataclass(frozen=True, kw_only=True, slots=True)
class UniversalL2(Universal):
    """One perturbation for all images, in L2; see `Universal`."""

    name: ClassVar[str] = "universal_l2"
    traits: ClassVar[Traits] = Traits(norm="l2", needs="decision", iterative=False)
