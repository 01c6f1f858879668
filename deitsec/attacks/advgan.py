"""Makes adversarial images by a generator that was trained before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from deitsec.attacks.attack import Attack, check_budget
from deitsec.attacks.perturbation_generator import Aim, PerturbationGenerator
from deitsec.types import Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvGANState(State):
    """State with what the generator made.

    Attributes:
        made: (B, C, H, W) the adversarial image of each row.
    """

    made: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvGAN(Attack):
    """AdvGAN (Xiao et al., arXiv:1801.02610): a trained generator makes the image in one pass.

    The generator is trained once against a model, by `deitsec.train_generator` or `deitsec
    train-generator`, and read when the attack is made. It asks nothing of the model. One that was
    trained to make labels lose cannot aim; one for a class needs `target=` that class; one for any
    class needs targets. On another model than it was trained against it is a transfer attack.

    Attributes:
        generator: file of the generator.
        eps: L-infinity radius, at most the one that the generator was trained for, which is the
            default; its perturbations are clipped to a smaller one. What is said for other attacks
            (`--eps`) does not reach it.
    """

    name: ClassVar[str] = "advgan"
    traits: ClassVar[Traits] = Traits(norm="linf", needs="decision", iterative=False)

    generator: str = field(default="", metadata={"made_first": True})
    eps: float | None = field(default=None, metadata={"own": True})
    _made: PerturbationGenerator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate the configuration, and read the generator.

        Raises:
            ValueError: no such file, a radius beyond the generator's, or a target that it was not
                trained for.
        """
        Attack.__post_init__(self)
        if not self.generator:
            raise ValueError(
                f"{self.name}: generator= must name a trained generator; "
                "deitsec train-generator makes one"
            )
        try:
            made = PerturbationGenerator.load(self.generator)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        object.__setattr__(self, "_made", made)
        if self.eps is not None:
            check_budget(self.name, self.eps)
            if self.eps > made.eps:
                raise ValueError(
                    f"{self.name}: {self.generator} was trained for eps={made.eps:g}, got the "
                    f"larger {self.eps:g}: leave eps out, or train one for it"
                )
        self._check_aim()

    @property
    def radius(self) -> float:
        """Distance up to which a perturbation counts: the generator's where none is given."""
        return self._made.eps if self.eps is None else self.eps

    @property
    def made_for(self) -> Mapping[str, str]:
        """Name and sha256 of the model that the generator was trained against."""
        return self._made.model

    def init(self, p: Problem) -> AdvGANState:
        """Make the images; the state stands on the clean ones.

        Raises:
            ValueError: images of another shape, or another aim, than the generator was trained for.
        """
        made = self._made
        if p.targeted == (made.target is None):
            self._refuse_aim("targets" if p.targeted else "no target")
        if isinstance(made.target, int) and bool((p.y != made.target).any()):
            self._refuse_aim("other targets")
        try:
            images = made.apply(p.x, p.y if made.target == "any" else None, eps=self.radius)
        except ValueError as error:
            raise ValueError(f"{self.name}: {self.generator} {error}") from error
        return AdvGANState(x=p.x, made=images)

    def plan(self) -> Plan:
        """Return the only step."""
        return [(self.step, 1)]

    def step(self, p: Problem, s: AdvGANState, query: Query) -> AdvGANState:
        """Go to what was made; the engine asks about it.

        The answer at the clean image, which the engine wants anyway, tells how many classes the
        model has.

        Raises:
            ValueError: a model of other classes than the generator was trained against.
        """
        classes = query.logits(p.x).shape[1]
        if classes != self._made.num_classes:
            raise ValueError(
                f"{self.name}: {self.generator} was trained against a model of "
                f"{self._made.num_classes} classes, got one of {classes}"
            )
        return s.replace(x=s.made)

    def _check_aim(self) -> None:
        aim = self._made.target
        if self.target is None and not self.num_targets:
            return  # targets may be handed in
        if aim is None or (aim != "any" and aim != self.target):
            self._refuse_aim("num_targets" if self.num_targets else f"target={self.target}")

    def _refuse_aim(self, got: str) -> None:
        aim = self._made.target
        how: dict[Aim, str] = {
            None: "to make labels lose: give no target",
            "any": "for targets: give target=next",
        }
        trained = how.get(aim, f"for class {aim} alone: give target={aim}")
        raise ValueError(f"{self.name}: {self.generator} was trained {trained}; got {got}")
