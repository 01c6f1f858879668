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
from deitsec.compat.face import Face, Given, Said, bind, by_norm, in_unit_range
from deitsec.compat.runner import Runner
from deitsec.compat.scaled import Range, Scale, Scaled
from deitsec.engine import AttackResult

Array = NDArray[Any]

_ADAM = 0.1  # step of Adam in the variable whose tanh is the image
_FAR = 3.0  # what all steps together come to at least: tanh goes from 0 to its end


class PyTorchClassifier:
    """A model with the range of its images.

    Args:
        model: takes what the preprocessing gives.
        loss: cross-entropy or None: attacks have losses of their own here.
        input_shape: (C, H, W).
        nb_classes: number of logits.
        optimizer: not used.
        use_amp: must be False; see the engine's `precision`.
        opt_level: not used.
        loss_scale: not used.
        channels_first: must be True: images are (B, C, H, W).
        clip_values: least and largest value of the images.
        preprocessing_defences: must be empty.
        postprocessing_defences: must be empty.
        preprocessing: (mean, std) that the images are normalised by first, numbers or one a
            channel; None does nothing.
        device_type: `cpu`, `gpu` (which is the CPU where there is none, as in ART) or `cuda:1`,
            where the model is moved; None leaves it where it is.

    Raises:
        ValueError: another loss, no clip_values, or an option that must not be given.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None,
        input_shape: tuple[int, ...],
        nb_classes: int,
        optimizer: Any = None,
        use_amp: bool = False,
        opt_level: str | None = "O1",
        loss_scale: Any = "dynamic",
        channels_first: bool = True,
        clip_values: Any = None,
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
        preprocessing: Any = (0.0, 1.0),
        device_type: str | None = None,
    ) -> None:
        if loss is not None and not isinstance(loss, nn.CrossEntropyLoss):
            raise ValueError(f"loss must be nn.CrossEntropyLoss() here, got {loss}")
        if not channels_first:
            raise ValueError("channels_first must be True here: images are (B, C, H, W)")
        refused = {
            "use_amp": use_amp,
            "preprocessing_defences": preprocessing_defences,
            "postprocessing_defences": postprocessing_defences,
        }
        for option, value in refused.items():
            if value:
                raise ValueError(f"{option} is not supported, got {value!r}")
        self.range = _range(clip_values)
        self.input_shape = tuple(input_shape)
        self.nb_classes = nb_classes
        self.model = model if device_type is None else model.to(_device(device_type))
        inner, scale = self.model, _scale(preprocessing)
        inner = inner if scale is None else Scaled(inner, scale)
        self.runner = Runner(inner if self.range.plain else Scaled(inner, self.range))

    @property
    def clip_values(self) -> tuple[float, float]:
        """Least and largest value of the images."""
        return self.range.low, self.range.high

    def predict(self, x: Array, batch_size: int = 128) -> Array:
        """(B, K) logits of images (B, C, H, W), `batch_size` at once."""
        return self.runner.logits(self.inward(x), batch_size).float().cpu().numpy()

    def inward(self, x: Array) -> Tensor:
        """The images in [0, 1], where the model is."""
        return self.range.inward(self._given(x))

    def outward(self, images: Tensor, x: Array) -> Array:
        """The images as numpy, in the range of the classifier; pixels as in `x` where unchanged."""
        given = self._given(x)
        return self.range.returned(images, self.range.inward(given), given).cpu().numpy()

    def _given(self, x: Array) -> Tensor:
        pixels = np.ascontiguousarray(x, dtype=np.float32)
        return torch.from_numpy(pixels).to(self.runner.device)


def _range(clip_values: Any) -> Range:
    """The range of the images; arrays must say the same of every value."""
    ends = [] if clip_values is None else [np.unique(np.asarray(end)) for end in clip_values]
    if [len(end) for end in ends] != [1, 1] or not ends[0][0] < ends[1][0]:
        raise ValueError(f"clip_values must be the range of the images, got {clip_values}")
    return Range(float(ends[0][0]), float(ends[1][0]))


def _scale(preprocessing: Any) -> Scale | None:
    """What the images are normalised by; None where that does nothing."""
    if preprocessing is None:
        return None
    if not isinstance(preprocessing, tuple | list) or len(preprocessing) != 2:
        given = type(preprocessing).__name__
        raise ValueError(f"preprocessing must be (mean, std), numbers or arrays, got {given}")
    mean, std = (np.asarray(part, dtype=np.float64) for part in preprocessing)
    if not mean.any() and (std == 1).all():
        return None
    return Scale.of(mean, std)


def _device(kind: str) -> torch.device:
    """ART's name of a device."""
    if kind == "gpu":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind != "cpu" and not kind.startswith("cuda"):
        raise ValueError(f"device_type must be cpu, gpu or cuda:N, got {kind!r}")
    return torch.device(kind)


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
        return self.estimator.outward(self.result(x, y).adv, x)

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
        for key in ("eps", "eps_step"):
            if np.ndim(self.given.get(key, 0.0)) > 0:
                raise ValueError(f"{type(self).__name__}: {key} must be one number here")
        return self.face.attack(in_unit_range(self.given, self.estimator.range.span))


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
    """As many images as ART's line search may ask about, and Adam's steps on the way of them.

    ART descends by plain gradients, and doubles and halves its step until the loss falls: 10
    iterations from 0.01 go as far as they have to. Adam goes no further than its step each time.
    """
    steps = given["max_iter"] * (given["max_halving"] + given["max_doubling"])
    return "cw", {
        "kappa": float(given["confidence"]),
        "lr": max(_ADAM, _FAR / max(1, steps)),
        "search_steps": given["binary_search_steps"],
        "steps": steps,
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
