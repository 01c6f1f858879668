"""foolbox's names and calls on deitsec's engine.

    from deitsec.compat import foolbox
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1))
    raw, clipped, is_adv = foolbox.attacks.LinfPGD()(fmodel, images, labels, epsilons=[8 / 255])

Classes, parameters and defaults are foolbox 3.3's. docs/compat.md says what differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import Attack as OurAttack
from deitsec.compat.face import Face, Given, Said, bind
from deitsec.compat.runner import Runner
from deitsec.compat.scaled import Scale
from deitsec.engine import AttackResult

Epsilons = float | None | Sequence[float | None]


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
        self.bounds = (float(bounds[0]), float(bounds[1]))
        model = model if device is None else model.to(device)
        self.module = _Preprocessed(model, self.bounds, dict(preprocessing or {}))
        self.runner = Runner(self.module)

    def __call__(self, inputs: Tensor) -> Tensor:
        """(B, K) logits of images in the bounds."""
        return self.module(self.inward(inputs))

    def inward(self, images: Tensor) -> Tensor:
        """Images in [0, 1]."""
        low, high = self.bounds
        return images if self.bounds == (0.0, 1.0) else _scale(low, high).inward(images)

    def outward(self, images: Tensor) -> Tensor:
        """Images in the bounds."""
        low, high = self.bounds
        return images if self.bounds == (0.0, 1.0) else images * (high - low) + low


class _Preprocessed(nn.Module):
    """The model on images in [0, 1]."""

    def __init__(self, model: nn.Module, bounds: tuple[float, float], steps: Given) -> None:
        super().__init__()
        unknown = set(steps) - {"mean", "std", "axis", "flip_axis"}
        if unknown or steps.get("axis", -3) != -3:
            raise ValueError(
                "preprocessing takes mean, std, axis=-3 and flip_axis, got "
                f"{', '.join(f'{key}={value}' for key, value in steps.items())}"
            )
        self.model = model
        self.bounds = bounds
        self.flip_axis: int | None = steps.get("flip_axis")
        scale = Scale.of(steps.get("mean", 0.0), steps.get("std", 1.0))
        self.plain = not {"mean", "std"} & set(steps)
        self.mean = nn.Buffer(scale.mean, persistent=False)
        self.std = nn.Buffer(scale.std, persistent=False)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        low, high = self.bounds
        inputs = images if self.bounds == (0.0, 1.0) else images * (high - low) + low
        if self.flip_axis is not None:
            inputs = inputs.flip(self.flip_axis)
        if not self.plain:
            inputs = (inputs - self.mean.to(inputs.device)) / self.std.to(inputs.device)
        return self.model(inputs)


def _scale(low: float, high: float) -> Scale:
    return Scale.of(-low / (high - low), 1 / (high - low))


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
        self._made(None)  # what is wrong shows here

    def __call__(
        self, model: PyTorchModel, inputs: Tensor, criterion: Criterion, *, epsilons: Epsilons
    ) -> tuple[Any, Any, Tensor]:
        """Attack images in the model's bounds.

        Args:
            model: whom.
            inputs: (B, C, H, W).
            criterion: labels, or one of the two criteria.
            epsilons: radii in the units of the bounds, one or several; None leaves an attack that
                looks for the nearest unbounded.

        Returns:
            The images as they were found, the same cut off at the radius, and whether those are
            adversarial: (B, C, H, W) twice and (B,), or lists and (E, B) for several radii.
        """
        if epsilons is None or isinstance(epsilons, int | float):
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
        radii: Sequence[float | None],
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        span = model.bounds[1] - model.bounds[0]
        inner = [None if radius is None else float(radius) / span for radius in radii]
        if self._made(None).traits.goal == "minimum":
            result = self._attacked(model, inputs, criterion, None)
            return [_cut(model, result, radius, self._made(None).traits.norm) for radius in inner]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for radius in inner:
            if radius is None:
                raise ValueError(f"{type(self).__name__} stays in a ball: epsilons must be numbers")
            result = self._attacked(model, inputs, criterion, radius)
            adv = model.outward(result.adv)
            found.append((adv, adv, result.success))
        return found

    def _attacked(
        self, model: PyTorchModel, inputs: Tensor, criterion: Criterion, radius: float | None
    ) -> AttackResult:
        labels = targets = None
        match criterion:
            case TargetedMisclassification():
                targets = criterion.target_classes
            case Misclassification():
                labels = criterion.labels
            case _:
                labels = criterion
        images, attack = model.inward(inputs), self._made(radius)
        return model.runner.run(attack, images, labels, targets, self.face.stop)

    def _made(self, radius: float | None) -> OurAttack:
        return self.face.attack(self.given | {"radius": 0.1 if radius is None else radius})


def _cut(
    model: PyTorchModel, result: AttackResult, radius: float | None, norm: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest images, the same within the radius, and whether those are adversarial."""
    raw = model.outward(result.adv)
    if radius is None:
        return raw, raw, result.success
    distance = result.distance(norm).to(result.adv.dtype)
    inside = (distance <= radius * (1 + 1e-6))[:, None, None, None]
    change = result.adv - result.clean
    if norm == "linf":
        cut = change.clamp(-radius, radius)
    else:
        cut = change * (radius / distance.clamp(min=radius))[:, None, None, None]
    clipped = torch.where(inside, result.adv, (result.clean + cut).clamp(0, 1))
    with torch.no_grad():
        training = model.module.training
        predicted = model.module.eval()(clipped).argmax(1)
        model.module.train(training)
    aim = result.targets
    won = predicted != result.labels if aim is None else predicted == aim.to(predicted.device)
    return raw, model.outward(clipped), won & (result.success | ~inside[:, 0, 0, 0])


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
