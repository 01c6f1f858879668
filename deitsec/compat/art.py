"""ART's names and calls on deitsec's engine: numpy in, numpy out.

    from deitsec.compat import art
    classifier = art.PyTorchClassifier(model, loss, (1, 28, 28), 10, clip_values=(0, 1))
    adv = art.ProjectedGradientDescent(classifier, eps=8/255, eps_step=2/255).generate(x, y)

Classes, parameters and defaults are ART 1.20's. docs/compat.md says what differs.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deitsec.attacks.attack import Attack as OurAttack
from deitsec.compat.face import Face, Given, Said, bind, by_norm
from deitsec.compat.runner import Runner
from deitsec.compat.scaled import Scale, Scaled
from deitsec.engine import AttackResult

Array = NDArray[Any]


class PyTorchClassifier:
    """A model with the range of its images.

    Args:
        model: takes what the preprocessing gives, on the device where it is.
        loss: cross-entropy or None: attacks have losses of their own here.
        input_shape: (C, H, W).
        nb_classes: number of logits.
        optimizer: not used.
        clip_values: least and largest value of the images.
        preprocessing: (mean, std) that the images are normalised by first; None does nothing.

    Raises:
        ValueError: another loss, or no clip_values.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None,
        input_shape: tuple[int, ...],
        nb_classes: int,
        optimizer: Any = None,
        *,
        clip_values: tuple[float, float] | None = None,
        preprocessing: tuple[Any, Any] | None = (0.0, 1.0),
    ) -> None:
        if loss is not None and not isinstance(loss, nn.CrossEntropyLoss):
            raise ValueError(f"loss must be nn.CrossEntropyLoss() here, got {loss}")
        if clip_values is None or not clip_values[0] < clip_values[1]:
            raise ValueError(f"clip_values must be the range of the images, got {clip_values}")
        low, high = (float(value) for value in clip_values)
        self.clip_values = (low, high)
        self.input_shape = tuple(input_shape)
        self.nb_classes = nb_classes
        self.model = model
        self._range = Scale.of(-low / (high - low), 1 / (high - low))
        inner = model
        if preprocessing is not None and preprocessing != (0.0, 1.0):
            inner = Scaled(inner, Scale.of(*preprocessing))
        self._inner = inner if self.clip_values == (0.0, 1.0) else Scaled(inner, self._range)
        self.runner = Runner(self._inner)

    @property
    def span(self) -> float:
        """Length of the range of the images."""
        return self.clip_values[1] - self.clip_values[0]

    def predict(self, x: Array, batch_size: int = 128) -> Array:
        """(B, K) logits of images (B, C, H, W)."""
        images = self.inward(x)
        training = self._inner.training
        self._inner.eval()
        try:
            with torch.no_grad():
                logits = [self._inner(part).float().cpu() for part in images.split(batch_size)]
        finally:
            self._inner.train(training)
        return torch.cat(logits).numpy()

    def inward(self, x: Array) -> Tensor:
        """The images in [0, 1], where the model is."""
        pixels = np.ascontiguousarray(x, dtype=np.float32)
        images = torch.from_numpy(pixels).to(self.runner.device)
        return images if self.clip_values == (0.0, 1.0) else self._range.inward(images)

    def outward(self, images: Tensor) -> Array:
        """The images as numpy, in the range of the classifier."""
        low = self.clip_values[0]
        plain = self.clip_values == (0.0, 1.0)
        return (images if plain else images * self.span + low).cpu().numpy()


class EvasionAttack:
    """Base of all attacks."""

    face: ClassVar[Face]

    def __init__(self, *given: Any, **named: Any) -> None:
        parameters = bind(self.face, type(self).__name__, ("estimator",), given, named)
        self.estimator: PyTorchClassifier = parameters.pop("estimator")
        self.given = parameters
        self._ours()  # what is wrong shows here

    def set_params(self, **named: Any) -> None:
        """Change parameters."""
        self.given = bind(self.face, type(self).__name__, (), (), self.given | named)
        self._ours()

    def generate(self, x: Array, y: Array | None = None) -> Array:
        """Adversarial images (B, C, H, W), fp32, in the range of the classifier.

        Args:
            x: (B, C, H, W) images in that range.
            y: (B,) classes or (B, K) one-hot: the true ones, or the targets of a targeted attack.
                None takes what the model predicts.

        Raises:
            ValueError: a targeted attack without y.
        """
        return self.estimator.outward(self.result(x, y).adv)

    def result(self, x: Array, y: Array | None = None) -> AttackResult:
        """The same with all that the engine knows of it; images in [0, 1]."""
        attack = self._ours()
        images = self.estimator.inward(x)
        targeted = bool(self.given.get("targeted", not attack.traits.untargeted))
        if y is None and targeted and attack.target is None:
            raise ValueError(
                f"{type(self).__name__}: target labels y need to be provided for a targeted attack"
            )
        classes = self.estimator.predict(x) if y is None else np.asarray(y)
        classes = classes.argmax(1) if classes.ndim == 2 and classes.shape[1] > 1 else classes
        labels = torch.from_numpy(classes.reshape(-1).astype(np.int64)).to(images.device)
        aimed = labels if targeted and y is not None else None
        truth = labels if aimed is None else None
        return self.estimator.runner.run(attack, images, truth, aimed, self.face.stop)

    def _ours(self) -> OurAttack:
        scaled = {
            key: value / self.estimator.span
            for key, value in self.given.items()
            if key in ("eps", "eps_step")
        }
        return self.face.attack(self.given | scaled)


def _norms(linf: str, l2: str | None = None, l1: str | None = None) -> dict[Any, str]:
    names: dict[Any, str | None] = {np.inf: linf, "inf": linf, 2: l2, 1: l1}
    return {norm: name for norm, name in names.items() if name is not None}


def _pgd(given: Given) -> Said:
    if given["decay"] is not None or given["random_eps"]:
        raise ValueError("ProjectedGradientDescent: decay and random_eps are not supported")
    name = by_norm("ProjectedGradientDescent", _norms("pgd", "pgd_l2", "pgd_l1"), given["norm"])
    options = {"eps": given["eps"], "alpha": given["eps_step"], "steps": given["max_iter"]}
    return name, options | _starts(given["num_random_init"])


def _starts(number: int) -> Given:
    """At the image, or so many times at a random point."""
    return {"random_start": number > 0, "restarts": max(1, number)}


def _fast(given: Given) -> Said:
    if given["minimal"]:
        raise ValueError("FastGradientMethod: minimal=True is not supported")
    name = by_norm("FastGradientMethod", _norms("pgd", "pgd_l2"), given["norm"])
    options = {"eps": given["eps"], "alpha": given["eps"], "steps": 1}
    return name, options | _starts(given["num_random_init"])


def _basic(given: Given) -> Said:
    return "bim", {"eps": given["eps"], "alpha": given["eps_step"], "steps": given["max_iter"]}


def _carlini(given: Given) -> Said:
    return "cw", {
        "kappa": float(given["confidence"]),
        "lr": given["learning_rate"],
        "search_steps": given["binary_search_steps"],
        "steps": given["max_iter"],
        "initial_const": given["initial_const"],
    }


def _deepfool(given: Given) -> Said:
    options = {"steps": given["max_iter"], "overshoot": given["epsilon"]}
    return "deepfool", options | {"candidates": given["nb_grads"]}


def _saliency(given: Given) -> Said:
    return "jsma", {"theta": given["theta"], "gamma": given["gamma"], "target": "random"}


def _square(given: Given) -> Said:
    if given["adv_criterion"] is not None or given["loss"] is not None:
        raise ValueError("SquareAttack: adv_criterion and loss are not supported")
    options = {"eps": given["eps"], "n_queries": given["max_iter"], "p_init": given["p_init"]}
    name = by_norm("SquareAttack", _norms("square", "square_l2"), given["norm"])
    return name, options | {"restarts": given["nb_restarts"]}


def _hops(given: Given) -> Said:
    """As many queries as the iterations would ask: estimates grow with the root of their number."""
    first, most = given["init_eval"], given["max_eval"]
    probes = sum(min(first * (t + 1) ** 0.5, most) for t in range(given["max_iter"]))
    searches = 25 * (given["max_iter"] + 1)  # decisions of a binary search and of a step, about
    name = by_norm("HopSkipJump", _norms("hopskipjump_linf", "hopskipjump"), given["norm"])
    return name, {
        "max_queries": int(given["init_size"] + probes + searches),
        "initial_evaluations": first,
        "max_evaluations": most,
        "start_queries": given["init_size"],
    }


def _auto_pgd(given: Given) -> Said:
    losses = {None: "ce", "cross_entropy": "ce", "difference_logits_ratio": "dlr"}
    if given["loss_type"] not in losses:
        known = ", ".join(map(repr, losses))
        raise ValueError(f"loss_type must be one of {known}, got {given['loss_type']!r}")
    norms = _norms("apgd", "apgd_l2", "apgd_l1")
    name = by_norm("AutoProjectedGradientDescent", norms, given["norm"])
    options = {"eps": given["eps"], "steps": given["max_iter"]}
    return name, options | {
        "restarts": given["nb_random_init"],
        "loss": losses[given["loss_type"]],
    }


def _named(name: str, defaults: Given, say: Any, stop: Any = "never") -> type[EvasionAttack]:
    """The class of an attack."""
    face = Face(defaults=defaults, say=say, stop=stop)
    parameters = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
    body = {"face": face, "__doc__": f"ART's {name}(estimator, {parameters})."}
    signature = {"__signature__": face.signature("estimator"), "__module__": __name__}
    return type(name, (EvasionAttack,), body | signature)


_SIZE: Given = {"eps": 0.3, "eps_step": 0.1}
_NORM: Given = {"norm": np.inf}

FastGradientMethod = _named(
    "FastGradientMethod",
    _NORM
    | _SIZE
    | {"targeted": False, "num_random_init": 0, "batch_size": 32}
    | {"minimal": False, "summary_writer": False},
    _fast,
)
BasicIterativeMethod = _named(
    "BasicIterativeMethod",
    _SIZE | {"max_iter": 100, "targeted": False, "batch_size": 32, "verbose": True},
    _basic,
)
ProjectedGradientDescent = _named(
    "ProjectedGradientDescent",
    _NORM
    | _SIZE
    | {"decay": None, "max_iter": 100, "targeted": False, "num_random_init": 0, "batch_size": 32}
    | {"random_eps": False, "summary_writer": False, "verbose": True},
    _pgd,
)
AutoProjectedGradientDescent = _named(
    "AutoProjectedGradientDescent",
    _NORM
    | _SIZE
    | {"max_iter": 100, "targeted": False, "nb_random_init": 5, "batch_size": 32}
    | {"loss_type": None, "verbose": True},
    _auto_pgd,
    "first_success",
)
CarliniL2Method = _named(
    "CarliniL2Method",
    {"confidence": 0.0, "targeted": False, "learning_rate": 0.01, "binary_search_steps": 10}
    | {"max_iter": 10, "initial_const": 0.01, "max_halving": 5, "max_doubling": 5}
    | {"batch_size": 1, "verbose": True},
    _carlini,
)
DeepFool = _named(
    "DeepFool",
    {"max_iter": 100, "epsilon": 1e-6, "nb_grads": 10, "batch_size": 1, "verbose": True},
    _deepfool,
)
SaliencyMapMethod = _named(
    "SaliencyMapMethod",
    {"theta": 0.1, "gamma": 1.0, "batch_size": 1, "verbose": True},
    _saliency,
    "first_success",
)
SquareAttack = _named(
    "SquareAttack",
    _NORM
    | {"adv_criterion": None, "loss": None, "max_iter": 100, "eps": 0.3, "p_init": 0.8}
    | {"nb_restarts": 1, "batch_size": 128, "verbose": True},
    _square,
    "first_success",
)
HopSkipJump = _named(
    "HopSkipJump",
    {"batch_size": 64, "targeted": False, "norm": 2, "max_iter": 50, "max_eval": 10000}
    | {"init_eval": 100, "init_size": 100, "verbose": True},
    _hops,
)
