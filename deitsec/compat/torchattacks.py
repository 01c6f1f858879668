"""torchattacks' names and calls on deitsec's engine.

    from deitsec.compat import torchattacks
    attack = torchattacks.PGD(model, eps=8/255, alpha=2/255, steps=10)
    adv = attack(images, labels)

Classes, parameters and defaults are torchattacks 3.5's. docs/compat.md says what differs.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deitsec.compat.dataset import load, save
from deitsec.compat.face import Face, Given, Said, bind, by_norm, to
from deitsec.compat.runner import Runner
from deitsec.compat.scaled import Scale, Scaled
from deitsec.engine import AttackResult
from deitsec.models import EOT

TargetMap = Callable[[Tensor, Tensor], Tensor]


class Attack:
    """Base of all attacks: modes, normalisation, the call, and saving.

    Attributes of the constructor can be changed before a call, as in torchattacks.
    """

    face: ClassVar[Face]

    def __init__(self, *given: Any, **named: Any) -> None:
        values = bind(self.face, type(self).__name__, ("model",), given, named)
        self.attack = type(self).__name__
        self.model: nn.Module = values.pop("model")
        self.attack_mode = "default"
        self.targeted = False
        self.supported_mode = ["default", "targeted"] if self.face.targeted else ["default"]
        self.scale: Scale | None = None
        self._parameters = tuple(values)
        self._target_map: TargetMap | None = None
        self._runner: tuple[tuple[Any, ...], Runner] | None = None
        self.__dict__.update(values)
        self.face.attack(self._given())  # what is wrong shows here, and not at the first call

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images of `inputs`, on the model's device.

        Args:
            inputs: (B, C, H, W) in [0, 1], or normalised after `set_normalization_used`.
            labels: (B,) true classes; the targets in the mode `targeted(label)`.
        """
        adv = self.result(inputs, labels).adv
        return adv if self.scale is None else self.scale.outward(adv)

    def result(self, inputs: Tensor, labels: Tensor) -> AttackResult:
        """The same call with all that the engine knows of it; images in [0, 1]."""
        runner = self._current_runner()
        images, labels = inputs.to(runner.device), labels.to(runner.device)
        targets = self._targets(images, labels)
        if self.scale is not None:
            images = self.scale.inward(images)
        attack = self.face.attack(self._given())
        if self.face.all_classes:
            number = runner.logits(images[:1]).shape[1]
            attack = dataclasses.replace(attack, **{self.face.all_classes: number})
        return runner.run(attack, images, labels, targets, self.face.stop)

    def set_model(self, model: nn.Module) -> None:
        """Attack another model."""
        self.model = model

    def set_normalization_used(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take and give normalised images, which is what the model takes."""
        self.scale = Scale.of(mean, std)

    def get_mode(self) -> str:
        """The mode: `default` or `targeted(...)`."""
        return self.attack_mode

    def set_mode_default(self) -> None:
        """Make the label lose."""
        self.attack_mode, self.targeted, self._target_map = "default", False, None

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """Aim at the labels that the call is given."""
        self._aim("targeted(label)", lambda inputs, labels: labels)

    def set_mode_targeted_by_function(
        self, target_map_function: TargetMap, quiet: bool = False
    ) -> None:
        """Aim at `target_map_function(inputs, labels)`."""
        self._aim("targeted(custom)", target_map_function)

    def set_mode_targeted_least_likely(self, kth_min: int = 1, quiet: bool = False) -> None:
        """Aim at the class of k-th smallest logit on the clean image, the label left out.

        Raises:
            ValueError: a kth_min below 1; at the call, one beyond the classes less the label.
        """
        if kth_min < 1:
            raise ValueError(f"kth_min must be at least 1, got {kth_min}")

        def least_likely(inputs: Tensor, labels: Tensor) -> Tensor:
            logits = self._logits(inputs)
            most = logits.shape[1] - 1
            if kth_min > most:
                raise ValueError(
                    f"kth_min must be at most {most}, the classes less the label, got {kth_min}"
                )
            return logits.scatter(1, labels[:, None], torch.inf).argsort(1)[:, kth_min - 1]

        self._aim("targeted(least-likely)", least_likely)

    def set_mode_targeted_random(self, quiet: bool = False) -> None:
        """Aim at a class drawn uniformly, the label left out."""

        def drawn(inputs: Tensor, labels: Tensor) -> Tensor:
            number = self._logits(inputs[:1]).shape[1]
            away = torch.randint(1, number, labels.shape).to(labels.device)
            return (labels + away) % number

        self._aim("targeted(random)", drawn)

    def save(self, data_loader: Iterable[Any], save_path: str | None = None, **options: Any) -> Any:
        """Attack a loader of (images, labels) and write the file; see `dataset.save`."""
        return save(self, data_loader, save_path, **options)

    load = staticmethod(load)

    def __repr__(self) -> str:
        """Name, parameters and mode."""
        shown = self._given() | {"attack_mode": self.attack_mode}
        return f"{self.attack}({', '.join(f'{key}={value}' for key, value in shown.items())})"

    def _given(self) -> Given:
        return {name: self.__dict__[name] for name in self._parameters}

    def _current_runner(self) -> Runner:
        """The runner for the attributes as they are now; it is kept while they stay."""
        given = self._given()
        passes = given["eot_iter"] if self.attack == "EOTPGD" else None
        decisive = (self.model, self.scale, given.get("seed"), passes)
        if self._runner is None or self._runner[0] != decisive:
            model = self.model if self.scale is None else Scaled(self.model, self.scale)
            if passes is not None:
                model = EOT(model, _Unchanged(), num_samples=passes)
            self._runner = decisive, Runner(model, given.get("seed"))
        return self._runner[1]

    def _aim(self, mode: str, target_map: TargetMap) -> None:
        if not self.face.targeted:
            raise ValueError(f"{self.attack}: Targeted mode is not supported.")
        self.attack_mode, self.targeted, self._target_map = mode, True, target_map

    def _targets(self, images: Tensor, labels: Tensor) -> Tensor | None:
        if self._target_map is None:
            return None
        return self._target_map(images, labels).to(labels.device)

    def _logits(self, inputs: Tensor) -> Tensor:
        """(B, K) of the model as it is called, in eval mode."""
        return Runner(self.model).logits(inputs)


class _Unchanged:
    """The transformation that does nothing: the model draws by itself."""

    def num_draws(self, shape: Sequence[int]) -> int:
        return 1

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        return x


_STEP: Given = {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10}
_DIVERSE: Given = {"resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False}
_APGD = {"Linf": "apgd", "L2": "apgd_l2", "L1": "apgd_l1"}
_FAB = {"Linf": "fab", "L2": "fab_l2", "L1": "fab_l1"}
_SQUARE = {"Linf": "square", "L2": "square_l2"}
_AUTO = {"Linf": "autoattack", "L2": "autoattack_l2", "L1": "autoattack_l1"}
# its choices where the paper leaves one; untargeted, it aims at the next class
_SALIENCY: Given = {"round_up": True, "skip_saturated": True, "target": "next"}


def _rfgsm(given: Given) -> Said:
    return "rfgsm", given | {"noise": min(given["alpha"], given["eps"])}


def _bim(given: Given) -> Said:
    levels = given["eps"] * 255
    return "bim", given | {"steps": given["steps"] or int(min(levels + 4, 1.25 * levels))}


def _difgsm(given: Given) -> Said:
    options = dict(given)
    if options.pop("random_start"):
        raise ValueError("DIFGSM, TIFGSM: random_start=True is not supported; they start at x")
    return "difgsm", options


def _tifgsm(given: Given) -> Said:
    _, options = _difgsm(given)
    options["kernel"] = options.pop("kernel_name")
    size = options["kernel_size"] = options.pop("len_kernel")
    options["sigma"] = max(size // 2, 1) / options.pop("nsig")
    return "tifgsm", options


def _apgd(given: Given) -> Said:
    keys = ("eps", "steps", "loss", "eot_iter", "rho")
    name = by_norm("APGD", _APGD, given["norm"])
    return name, {key: given[key] for key in keys} | {"restarts": given["n_restarts"]}


def _apgdt(given: Given) -> Said:
    name, options = _apgd(given | {"loss": "targeted_dlr"})
    return name, options | {"num_targets": given["n_classes"] - 1}


def _fab(given: Given) -> Said:
    keys = ("eps", "steps", "alpha_max", "eta", "beta")
    options = {key: given[key] for key in keys} | {"restarts": given["n_restarts"]}
    if given["multi_targeted"]:
        options["num_targets"] = given["n_classes"] - 1
    return by_norm("FAB", _FAB, given["norm"]), options


def _square(given: Given) -> Said:
    keys = ("eps", "n_queries", "p_init", "loss")
    options = {key: given[key] for key in keys} | {"restarts": given["n_restarts"]}
    options["rescale_schedule"] = given["resc_schedule"]
    return by_norm("Square", _SQUARE, given["norm"]), options


_SEARCH: Given = {"norm": "Linf", "eps": 8 / 255, "steps": 10, "n_restarts": 1}
_APGD_REST: Given = {"eot_iter": 1, "rho": 0.75, "verbose": False}


def _made(name: str, face: Face) -> type[Attack]:
    """The class of an attack."""
    parameters = ", ".join(f"{key}={value!r}" for key, value in face.defaults.items())
    body = {"face": face, "__doc__": f"torchattacks' {name}(model, {parameters})."}
    signature = {"__signature__": face.signature("model"), "__module__": __name__}
    return type(name, (Attack,), body | signature)


FGSM = _made("FGSM", Face(defaults={"eps": 8 / 255}, say=to("fgsm")))
FFGSM = _made(
    "FFGSM",
    Face(
        defaults={"eps": 8 / 255, "alpha": 10 / 255},
        say=lambda given: ("pgd", given | {"steps": 1}),
    ),
)
RFGSM = _made("RFGSM", Face(defaults=_STEP, say=_rfgsm))
BIM = _made("BIM", Face(defaults=_STEP, say=_bim))
PGD = _made("PGD", Face(defaults=_STEP | {"random_start": True}, say=to("pgd")))
EOTPGD = _made(
    "EOTPGD",
    Face(defaults=_STEP | {"eot_iter": 2, "random_start": True}, say=to("pgd", "eot_iter")),
)
PGDL2 = _made(
    "PGDL2",
    Face(
        defaults={"eps": 1.0, "alpha": 0.2, "steps": 10, "random_start": True}
        | {"eps_for_division": 1e-10},
        say=to("pgd_l2", "eps_for_division"),
    ),
)
MIFGSM = _made("MIFGSM", Face(defaults=_STEP | {"decay": 1.0}, say=to("mifgsm")))
NIFGSM = _made("NIFGSM", Face(defaults=_STEP | {"decay": 1.0}, say=to("nifgsm")))
SINIFGSM = _made(
    "SINIFGSM", Face(defaults=_STEP | {"decay": 1.0, "m": 5}, say=to("sinifgsm", m="scales"))
)
VMIFGSM = _made(
    "VMIFGSM",
    Face(defaults=_STEP | {"decay": 1.0, "N": 5, "beta": 3 / 2}, say=to("vmifgsm", N="neighbours")),
)
DIFGSM = _made("DIFGSM", Face(defaults=_STEP | {"decay": 0.0} | _DIVERSE, say=_difgsm))
TIFGSM = _made(
    "TIFGSM",
    Face(
        defaults=_STEP
        | {"decay": 0.0, "kernel_name": "gaussian", "len_kernel": 15, "nsig": 3}
        | _DIVERSE,
        say=_tifgsm,
    ),
)
CW = _made(
    "CW",
    Face(
        defaults={"c": 1, "kappa": 0, "steps": 50, "lr": 0.01},
        say=lambda given: (
            "cw",
            # it looks at the loss of the whole batch, which hardly ever ends a search
            {"search_steps": 1, "abort_early": False, "steps": given["steps"], "lr": given["lr"]}
            | {"initial_const": float(given["c"]), "kappa": float(given["kappa"])},
        ),
        stop="first_success",
    ),
)
DeepFool = _made(
    "DeepFool",
    Face(
        defaults={"steps": 50, "overshoot": 0.02},
        say=to("deepfool"),
        stop="first_success",
        targeted=False,
        all_classes="candidates",
    ),
)
JSMA = _made(
    "JSMA",
    Face(
        defaults={"theta": 1.0, "gamma": 0.1},
        say=lambda given: ("jsma", given | _SALIENCY),
        stop="first_success",
    ),
)
APGD = _made(
    "APGD",
    Face(
        defaults=_SEARCH | {"seed": 0, "loss": "ce"} | _APGD_REST,
        say=_apgd,
        stop="first_success",
        targeted=False,
    ),
)
APGDT = _made(
    "APGDT",
    Face(
        defaults=_SEARCH | {"seed": 0} | _APGD_REST | {"n_classes": 10},
        say=_apgdt,
        stop="first_success",
        targeted=False,
    ),
)
FAB = _made(
    "FAB",
    Face(
        defaults=_SEARCH
        | {"alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "verbose": False, "seed": 0}
        | {"multi_targeted": False, "n_classes": 10},
        say=_fab,
        stop="first_success",
    ),
)
Square = _made(
    "Square",
    Face(
        defaults={"norm": "Linf", "eps": 8 / 255, "n_queries": 5000, "n_restarts": 1}
        | {"p_init": 0.8, "loss": "margin", "resc_schedule": True, "seed": 0, "verbose": False},
        say=_square,
        stop="first_success",
    ),
)
AutoAttack = _made(
    "AutoAttack",
    Face(
        defaults={"norm": "Linf", "eps": 8 / 255, "version": "standard", "n_classes": 10}
        | {"seed": None, "verbose": False},
        say=lambda given: (
            by_norm("AutoAttack", _AUTO, given["norm"]),
            {"eps": given["eps"], "version": given["version"]},
        ),
        stop="first_success",
        targeted=False,
    ),
)
