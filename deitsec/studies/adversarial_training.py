"""Adversarial training: the methods side by side, under attacks from FGSM to `reliable`."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any, cast

from torch import Tensor

from deitsec.attacks import FGSM, PGD, create_attack
from deitsec.data import to_float
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.studies.adversarial_training_page import render
from deitsec.studies.study import Study, StudyRun
from deitsec.studies.undefended_curve import UndefendedCurve
from deitsec.training import (
    AdversarialConfig,
    FitConfig,
    FitResult,
    adversarial_fit,
    adversarial_recipe,
    fit,
    predict,
)
from deitsec.training.adversarial_config import METHODS
from deitsec.training.recipes import new_model, recipe
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import suite_eps

UNDEFENDED, UNWATCHED = "undefended", "fast-unwatched"
_KNOWN = (*METHODS, UNWATCHED)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the study goes."""

    methods: tuple[str, ...] = field(
        default=("mixture", "pgd", "trades", "fast", UNWATCHED, "free"),
        metadata={"help": f"Of {', '.join(_KNOWN)}; the last is fast without its detector."},
    )
    eps: float = field(
        default=0.0, metadata={"help": "L-infinity radius; 0 takes the data's own of `verify`."}
    )
    steps: int = field(default=20, metadata={"help": "Of the PGD that is attacked with."})
    strong: str = field(
        default="reliable", metadata={"help": "The strong attack: reliable or autoattack."}
    )
    per_class: int = field(default=20, metadata={"help": "Test images of each class."})
    model: str = field(default="small_cnn", metadata={"help": "The network."})
    epochs: int = field(default=0, metadata={"help": "Of each training; 0 takes the recipe's."})
    curve_rows: int = field(
        default=200, metadata={"help": "Images of each split that a point of the curves takes."}
    )

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ValueError: an option out of its range.
        """
        unknown = [method for method in self.methods if method not in _KNOWN]
        if unknown or not self.methods:
            raise ValueError(f"methods must be of {', '.join(_KNOWN)}, got {unknown or 'none'}")
        if not 0 <= self.eps <= 1:
            raise ValueError(f"eps must be in [0, 1], got {self.eps}")
        if self.strong not in ("reliable", "autoattack"):
            raise ValueError(f"strong must be reliable or autoattack, got {self.strong!r}")
        for name, least in (("steps", 1), ("per_class", 1), ("epochs", 0), ("curve_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Train the network undefended and by each method, and attack all of them alike."""
    eps = run.options.eps or suite_eps(run.data)
    rows = choose_rows(run.data, run.options.per_class)
    entries: list[dict[str, Any]] = []
    for method in (UNDEFENDED, *run.options.methods):
        network, training = _trained(run, method, eps)
        attacked = run.part(f"{method}-attacked", partial(_attack, run, network, rows, eps, method))
        entries.append({"method": method, "training": training, **attacked})
    return {
        "rows": len(rows),
        "curve_rows": min(run.options.curve_rows, len(run.data.test)),
        "model": run.options.model,
        "eps": eps,
        "usual_eps": suite_eps(run.data),
        "classes": run.data.num_classes,
        "strong": run.options.strong,
        "methods": entries,
    }


def _trained(run: StudyRun[Options], method: str, eps: float) -> tuple[Classifier, dict[str, Any]]:
    """The network, and how its training went."""
    name, data = run.options.model, run.data
    config = _config(run, method, eps)
    kept: dict[str, Any] = {}

    def train(network: Classifier, **more: Any) -> FitResult:
        network = network.to(run.device)
        if isinstance(config, FitConfig):
            curve = UndefendedCurve(run, network, config, eps=eps, rows=run.options.curve_rows)
            told = curve.told(more.pop("progress"))
            result = curve.drawn(fit(network, data, config, progress=told, **more))
        else:
            result = adversarial_fit(network, data, config, **more)
        # kept before the network is, which is not trained again once it is there
        kept.update(run.part(f"{method}-history", lambda: _history(result)))
        return result

    network = run.network(method, lambda: new_model(name, data, seed=run.seed), train)
    return network, kept or run.part(f"{method}-history", dict[str, Any])


def _history(result: FitResult) -> dict[str, Any]:
    history = [asdict(record) for record in result.history]
    return {
        "settings": dict(result.config),
        "history": history,
        "best_epoch": result.best_epoch,
        "seconds_per_epoch": fmean(record["seconds"] for record in history),
        "note": history[-1]["note"],
    }


def _config(run: StudyRun[Options], method: str, eps: float) -> FitConfig | AdversarialConfig:
    name, data = run.options.model, run.data
    if method == UNDEFENDED:
        return recipe(data, name, seed=run.seed).fit.with_epochs(run.options.epochs)
    base = "fast" if method == UNWATCHED else method
    plan = adversarial_recipe(data, name, method=cast(Any, base), eps=eps, seed=run.seed)
    fit_config = plan.fit.with_epochs(run.options.epochs)
    plan = replace(plan, fit=fit_config, curve_rows=run.options.curve_rows)
    return replace(plan, overfit_gap=None) if method == UNWATCHED else plan


def _attack(
    run: StudyRun[Options], network: Classifier, rows: Tensor, eps: float, method: str
) -> dict[str, Any]:
    """Accuracy on clean images and under each attack."""
    images, labels = to_float(run.data.test.images(rows)), run.data.test.labels[rows]
    engine = Engine(network, seed=run.seed)
    attacks = {
        "fgsm": FGSM(eps=eps),
        "pgd": PGD(eps=eps, steps=run.options.steps),
        "strong": create_attack(run.options.strong, eps=eps),
    }
    right = predict(network, run.data.test).argmax(1) == run.data.test.labels
    found: dict[str, Any] = {
        "clean": right.double().mean().item(),
        "clean_rows": len(right),
    }
    told = run.rows(f"attacking {method}")
    for done, (name, attack) in enumerate(attacks.items(), start=1):
        result = engine.run(attack, images, labels, sample_ids=rows)
        found["clean_attacked"] = result.clean_correct.double().mean().item()
        found[name] = result.robust_accuracy
        told(done * len(rows), len(attacks) * len(rows))
    return found


STUDY = Study(
    name="adversarial-training",
    title="Adversarial training, side by side",
    source=(
        "Goodfellow et al. (arXiv:1412.6572), Madry et al. (arXiv:1706.06083), Zhang et al. "
        "(arXiv:1901.08573), Shafahi et al. (arXiv:1904.12843) and Wong et al. (arXiv:2001.03994)"
    ),
    data="digits",
    options=Options,
    quick={"methods": ("pgd", "fast"), "epochs": 1, "per_class": 2, "curve_rows": 10},
    measure=measure,
    render=render,
)
