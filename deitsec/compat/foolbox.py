"""foolbox's names and calls on deitsec's engine.

    from deitsec.compat import foolbox
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1))
    raw, clipped, is_adv = foolbox.attacks.LinfPGD()(fmodel, images, labels, epsilons=[8 / 255])

Classes, parameters and defaults are foolbox 3.3's. docs/compat.md says what differs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import Attack as OurAttack
from deitsec.compat.face import Face, Given, Said, bind, in_unit_range
from deitsec.compat.runner import Runner
from deitsec.compat.scaled import Range, Scale, Scaled
from deitsec.engine import AttackResult

Epsilons = float | None | Sequence[float | None]

# length of a range, of which no step that fits the range of the images is too long a part
_UNKNOWN = 1e6


class PyTorchModel:
    """A model with the range of its images and what is done to them first.

    Args:
        model: takes what the preprocessing gives.
        bounds: least and largest value of the images that attacks are handed.
        device: where it is moved; None leaves it where it is.
        preprocessing: `mean` and `std`, numbers or one value for each place of `axis` (-3, the
            channels, is the one that there is here), and `flip_axis`, along which it is reversed.
    """

    def __init__(
        self,
        model: nn.Module,
        bounds: tuple[float, float],
        device: Any = None,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        if not bounds[0] < bounds[1]:
            raise ValueError(f"bounds must rise, got {bounds}")
        self.range = Range(float(bounds[0]), float(bounds[1]))
        model = model if device is None else model.to(device)
        inner = _preprocessed(model, dict(preprocessing or {}))
        self.module = inner if self.range.plain else Scaled(inner, self.range)
        self.runner = Runner(self.module)

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and largest value of the images."""
        return self.range.low, self.range.high

    def __call__(self, inputs: Tensor) -> Tensor:
        """(B, K) logits of images in the bounds."""
        return self.module(self.range.inward(inputs))


def _preprocessed(model: nn.Module, steps: Given) -> nn.Module:
    """The model on images in the bounds: they are flipped, then normalised."""
    if set(steps) - {"mean", "std", "axis", "flip_axis"} or steps.get("axis", -3) != -3:
        raise ValueError(
            "preprocessing takes mean, std, axis=-3 and flip_axis, got "
            f"{', '.join(f'{key}={value}' for key, value in steps.items())}"
        )
    if {"mean", "std"} & set(steps):
        mean, std = steps.get("mean", 0.0), steps.get("std", 1.0)
        model = Scaled(model, Scale.of(mean, std))
    flip_axis = steps.get("flip_axis")
    return model if flip_axis is None else Scaled(model, _Flip(flip_axis))


@dataclass(frozen=True, slots=True)
class _Flip:
    """Images reversed along an axis."""

    axis: int

    def outward(self, images: Tensor) -> Tensor:
        return images.flip(self.axis)


@dataclass(frozen=True)
class Misclassification:
    """Another class than the label wins.

    Attributes:
        labels: (B,) true classes.
    """

    labels: Tensor


@dataclass(frozen=True)
class TargetedMisclassification:
    """The target wins.

    Attributes:
        target_classes: (B,) whom to aim at.
    """

    target_classes: Tensor


Criterion = Misclassification | TargetedMisclassification | Tensor


class Attack:
    """Base of all attacks.

    An attack that stays in a ball runs once for each of the epsilons; one that looks for the
    nearest success runs once, and its images are cut off at each of them.
    """

    face: ClassVar[Face]

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given = bind(self.face, type(self).__name__, (), given, named)
        self._made(None, _UNKNOWN)  # what is wrong shows here

    def __call__(
        self, model: PyTorchModel, inputs: Tensor, criterion: Criterion, *, epsilons: Epsilons
    ) -> tuple[Any, Any, Tensor]:
        """Attack images in the model's bounds.

        Args:
            model: whom.
            inputs: (B, C, H, W).
            criterion: labels, or one of the two criteria.
            epsilons: radii in the units of the bounds, one or several; None leaves an attack that
                looks for the nearest unbounded, and 0 the images as they are.

        Returns:
            The images as they were found, the same cut off at the radius, and whether those are
            adversarial: (B, C, H, W) twice and (B,), or lists and (E, B) for several radii.

        Raises:
            ValueError: a radius below 0, or none where the attack stays in a ball.
        """
        if not isinstance(epsilons, Iterable):
            return self._search(model, inputs, criterion, [epsilons])[0]
        found = self._search(model, inputs, criterion, epsilons)
        raws, clips, wins = zip(*found, strict=True)
        return list(raws), list(clips), torch.stack(wins)

    def run(
        self,
        model: PyTorchModel,
        inputs: Tensor,
        criterion: Criterion,
        *,
        epsilon: float | None = None,
    ) -> Tensor:
        """The images as they were found, at one radius."""
        return self(model, inputs, criterion, epsilons=epsilon)[0]

    def _search(
        self,
        model: PyTorchModel,
        inputs: Tensor,
        criterion: Criterion,
        radii: Iterable[float | None],
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        radii = [None if radius is None else float(radius) for radius in radii]
        name, wrong = type(self).__name__, [r for r in radii if r is not None and not r >= 0]
        if wrong:
            raise ValueError(f"{name}: epsilons must be at least 0, got {wrong[0]}")
        nearest = self._made(None, _UNKNOWN).traits.goal == "minimum"
        if any(radius is None for radius in radii) and not nearest:
            raise ValueError(f"{name} stays in a ball: epsilons must be numbers, got None")
        aim = _Aim.of(model, inputs, criterion)
        if nearest:
            result = self._attacked(aim, None)
            return [self._cut(aim, result, radius) for radius in radii]
        return [aim.untouched() if r == 0 else self._in_ball(aim, r) for r in radii]

    def _in_ball(self, aim: "_Aim", radius: float | None) -> tuple[Tensor, Tensor, Tensor]:
        result = self._attacked(aim, radius)
        adv = aim.outward(result.adv)
        return adv, adv, result.success

    def _cut(
        self, aim: "_Aim", result: AttackResult, radius: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest images, the same within the radius, and whether those are adversarial."""
        raw = aim.outward(result.adv)
        if radius is None:
            return raw, raw, result.success
        if radius == 0:
            return raw, *aim.untouched()[1:]
        norm, radius = self._made(None, _UNKNOWN).traits.norm, radius / aim.model.range.span
        distance = result.distance(norm)
        inside = distance <= radius * (1 + 1e-6)
        change = (result.adv - result.clean).to(torch.promote_types(raw.dtype, torch.float32))
        if norm == "linf":
            cut = change.clamp(-radius, radius)
        else:
            cut = change * (radius / distance.clamp(min=radius)).to(change)[:, None, None, None]
        cut_off = (result.clean + cut).clamp(0, 1).to(raw.dtype)
        clipped = torch.where(inside[:, None, None, None], result.adv, cut_off)
        return raw, aim.outward(clipped), aim.reached(clipped) & (result.success | ~inside)

    def _attacked(self, aim: "_Aim", radius: float | None) -> AttackResult:
        attack = self._made(radius, aim.model.range.span)
        run = aim.model.runner.run
        return run(attack, aim.images, aim.labels, aim.targets, self.face.stop)

    def _made(self, radius: float | None, span: float) -> OurAttack:
        """Ours for images of a range of this length; without a radius, to be looked at."""
        given = self.given | {"radius": 0.1 * span if radius is None else float(radius)}
        return self.face.attack(in_unit_range(given, span))


@dataclass(frozen=True)
class _Aim:
    """Images, and what an attack on a model is to do with them.

    Attributes:
        model: whom to attack.
        given: the images as the caller has them.
        images: the same in [0, 1].
        labels: (B,) true classes.
        targets: (B,) whom to aim at, in the place of labels.
    """

    model: PyTorchModel
    given: Tensor
    images: Tensor
    labels: Tensor | None
    targets: Tensor | None

    @classmethod
    def of(cls, model: PyTorchModel, given: Tensor, criterion: Criterion) -> Self:
        labels = targets = None
        match criterion:
            case TargetedMisclassification():
                targets = criterion.target_classes
            case Misclassification():
                labels = criterion.labels
            case _:
                labels = criterion
        return cls(model, given, model.range.inward(given), labels, targets)

    def outward(self, images: Tensor) -> Tensor:
        """Images as the caller has them; those that are the caller's own to the last bit."""
        return self.model.range.returned(images, self.images, self.given)

    def untouched(self) -> tuple[Tensor, Tensor, Tensor]:
        """The images as they are, and whether those are adversarial."""
        return self.given, self.given, self.reached(self.images)

    def reached(self, images: Tensor) -> Tensor:
        """(B,) whether images in [0, 1] are adversarial."""
        predicted = self.model.runner.predict(images)
        if self.targets is not None:
            return predicted == self.targets.to(predicted.device)
        assert self.labels is not None
        return predicted != self.labels.to(predicted.device)


def _alpha(given: Given) -> float:
    """The step size: absolute, or a share of the radius."""
    size = given["abs_stepsize"]
    return given["rel_stepsize"] * given["radius"] if size is None else size


def _steps(name: str) -> Any:
    """An attack that takes steps in a ball."""

    def say(given: Given) -> Said:
        options = {"eps": given["radius"], "alpha": _alpha(given), "steps": given["steps"]}
        return name, options | {"random_start": given["random_start"]}

    return say


def _one_step(name: str) -> Any:
    """A single step as long as the radius."""

    def say(given: Given) -> Said:
        options = {"eps": given["radius"], "alpha": given["radius"], "steps": 1}
        return name, options | {"random_start": given["random_start"]}

    return say


def _momentum(given: Given) -> Said:
    if given["random_start"]:
        raise ValueError("LinfMomentumIterativeFastGradientMethod: random_start is not supported")
    options = {"eps": given["radius"], "alpha": _alpha(given), "steps": given["steps"]}
    return "mifgsm", options | {"decay": given["momentum"]}


def _carlini(given: Given) -> Said:
    return "cw", {
        "search_steps": given["binary_search_steps"],
        "steps": given["steps"],
        "lr": given["stepsize"],
        "kappa": float(given["confidence"]),
        "initial_const": given["initial_const"],
        "abort_early": given["abort_early"],
    }


def _deepfool(name: str) -> Any:
    def say(given: Given) -> Said:
        if given["loss"] != "logits":
            raise ValueError(f"DeepFool: loss must be 'logits' here, got {given['loss']!r}")
        options = {"steps": given["steps"], "overshoot": given["overshoot"]}
        return name, options | {"candidates": given["candidates"]}

    return say


def _ddn(given: Given) -> Said:
    options = {"steps": given["steps"], "gamma": given["gamma"]}
    return "ddn", options | {"init_norm": given["init_epsilon"]}


_DEEPFOOL: Given = {"steps": 50, "candidates": 10, "overshoot": 0.02, "loss": "logits"}
_START: Given = {"random_start": False}


def _sized(rel: float, steps: int, *, random_start: bool) -> Given:
    return {
        "rel_stepsize": rel,
        "abs_stepsize": None,
        "steps": steps,
        "random_start": random_start,
    }


def _named(name: str, defaults: Given, say: Any) -> type[Attack]:
    """The class of an attack."""
    face = Face(defaults=defaults, say=say)
    parameters = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
    body = {"face": face, "__doc__": f"foolbox's {name}({parameters})."}
    return type(name, (Attack,), body | {"__signature__": face.signature(), "__module__": __name__})


_FAST, _PGD, _BIM = "FastGradientAttack", "ProjectedGradientDescentAttack", "BasicIterativeAttack"
_PGD_40, _PGD_50 = (
    _sized(rel, steps, random_start=True) for rel, steps in ((0.01 / 0.3, 40), (0.025, 50))
)
_BIM_10 = _sized(0.2, 10, random_start=False)

LinfFastGradientAttack = _named(f"Linf{_FAST}", _START, _one_step("pgd"))
L2FastGradientAttack = _named(f"L2{_FAST}", _START, _one_step("pgd_l2"))
LinfProjectedGradientDescentAttack = _named(f"Linf{_PGD}", _PGD_40, _steps("pgd"))
L2ProjectedGradientDescentAttack = _named(f"L2{_PGD}", _PGD_50, _steps("pgd_l2"))
L1ProjectedGradientDescentAttack = _named(f"L1{_PGD}", _PGD_50, _steps("pgd_l1"))
LinfBasicIterativeAttack = _named(f"Linf{_BIM}", _BIM_10, _steps("pgd"))
L2BasicIterativeAttack = _named(f"L2{_BIM}", _BIM_10, _steps("pgd_l2"))
LinfMomentumIterativeFastGradientMethod = _named(
    "LinfMomentumIterativeFastGradientMethod", {"momentum": 1.0} | _BIM_10, _momentum
)
L2CarliniWagnerAttack = _named(
    "L2CarliniWagnerAttack",
    {"binary_search_steps": 9, "steps": 10000, "stepsize": 0.01}
    | {"confidence": 0, "initial_const": 0.001, "abort_early": True},
    _carlini,
)
L2DeepFoolAttack = _named("L2DeepFoolAttack", _DEEPFOOL, _deepfool("deepfool"))
LinfDeepFoolAttack = _named("LinfDeepFoolAttack", _DEEPFOOL, _deepfool("deepfool_linf"))
DDNAttack = _named("DDNAttack", {"init_epsilon": 1.0, "steps": 100, "gamma": 0.05}, _ddn)

FGSM, FGM = LinfFastGradientAttack, L2FastGradientAttack
LinfPGD, L2PGD, L1PGD = (
    LinfProjectedGradientDescentAttack,
    L2ProjectedGradientDescentAttack,
    L1ProjectedGradientDescentAttack,
)
PGD = LinfPGD
MIFGSM = LinfMomentumIterativeFastGradientMethod

# foolbox's two modules of these names
attacks = SimpleNamespace(
    **{
        name: made
        for name, made in globals().items()
        if isinstance(made, type) and issubclass(made, Attack)
    }
)
criteria = SimpleNamespace(
    Misclassification=Misclassification, TargetedMisclassification=TargetedMisclassification
)
