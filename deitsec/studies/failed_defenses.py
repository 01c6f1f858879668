"""Defenses that were hoped for and failed: each attacked plainly, then by somebody who knows it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deitsec.attacks import APGD, PGD, Attack
from deitsec.data import to_float
from deitsec.defenses.bit_depth import BitDepth
from deitsec.defenses.bpda import BPDA
from deitsec.defenses.clean_up import cleaned, fit_clean_up
from deitsec.defenses.ensemble import Ensemble
from deitsec.defenses.multiple_glimpses import glimpses
from deitsec.defenses.noise import noisy
from deitsec.defenses.output_codes import OutputCode, coded, hadamard_codes
from deitsec.defenses.pretraining import fit_pretrained, pretrainable
from deitsec.defenses.random_dropout import RandomDropout, with_sampled_dropout
from deitsec.defenses.transfer import predict
from deitsec.engine import Engine
from deitsec.models import Classifier
from deitsec.studies.failed_defenses_page import render
from deitsec.studies.study import Study, StudyRun
from deitsec.training import AdversarialConfig, FitConfig, adversarial_fit, fit
from deitsec.training.recipes import new_model, recipe
from deitsec.verification.protocol import choose_rows
from deitsec.verification.suite import suite_eps


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the study goes."""

    defenses: tuple[str, ...] = field(
        default=(), metadata={"help": "Names of the table's rows; none takes all."}
    )
    model: str = field(default="small_cnn", metadata={"help": "The network behind each defense."})
    epochs: int = field(default=0, metadata={"help": "Of each training; 0 takes the recipe's."})
    per_class: int = field(default=20, metadata={"help": "Test images of each class."})
    eps: float = field(default=0.0, metadata={"help": "L-infinity radius; 0 takes the data's."})
    steps: int = field(default=20, metadata={"help": "Of the plain PGD."})
    adaptive_steps: int = field(default=40, metadata={"help": "Of the adaptive attacks."})
    draws: int = field(default=8, metadata={"help": "Draws that an adaptive step averages."})
    members: int = field(default=4, metadata={"help": "Networks of the ensemble."})
    weight_decay: float = field(default=1.0, metadata={"help": "The strong weight decay."})
    noise: float = field(default=0.2, metadata={"help": "Noise at train and at test time."})
    dropout: float = field(default=0.5, metadata={"help": "Rate of the dropout at test time."})
    glimpses: int = field(default=4, metadata={"help": "Shifted looks at each image."})
    shift: int = field(default=2, metadata={"help": "Pixels that a look is shifted by, at most."})
    bits: int = field(default=2, metadata={"help": "Bits of a value that the input keeps."})

    def __post_init__(self) -> None:
        """Validate what no defense does.

        Raises:
            ValueError: an option out of its range.
        """
        unknown = [name for name in self.defenses if name not in DEFENSES]
        if unknown:
            raise ValueError(f"defenses must be of {', '.join(DEFENSES)}, got {unknown}")
        for name in ("per_class", "steps", "adaptive_steps", "draws", "members"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.epochs < 0 or not 0 <= self.eps <= 1:
            raise ValueError("epochs must be at least 0 and eps in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Defended:
    """A defense, and what attackers follow.

    Attributes:
        model: what answers, and judges every success.
        plain: whose gradients the plain attack follows; None the model's own.
        plain_attack: the plain attack in words.
        adaptive: whose gradients somebody who knows the defense follows; None the model's own.
        adaptive_attack: the adaptive attack in words.
    """

    model: nn.Module
    plain: nn.Module | None = None
    plain_attack: str = "its gradient as it is"
    adaptive: nn.Module | None = None
    adaptive_attack: str = "more steps, and a loss of logits"


class Bench:
    """Trains and builds what is measured, each network once.

    Args:
        run: of the study.
    """

    def __init__(self, run: StudyRun[Options]) -> None:
        self.run = run
        self.options = run.options
        self.shape = run.data.test.shape
        self.eps = run.options.eps or suite_eps(run.data)
        self._networks: dict[str, Classifier] = {}

    def network(
        self,
        name: str,
        train: Callable[..., Any] = fit,
        build: Callable[[], Classifier] | None = None,
        *,
        weights: int | None = None,
        noise: float = 0.0,
        **changes: Any,
    ) -> Classifier:
        """A network by the recipe, with `changes` to its FitConfig, trained once.

        `weights` is the seed of those that it starts from; None the run's.
        """
        if name not in self._networks:
            config = replace(self.config(noise), **changes)
            make = build or partial(self.untrained, seed=weights)

            def trained(network: Classifier, **more: Any) -> Any:
                return train(network.to(self.run.device), self.run.data, config, **more)

            self._networks[name] = self.run.network(name, make, trained)
        return self._networks[name]

    def base(self) -> Classifier:
        """The undefended network."""
        return self.network("undefended")

    def untrained(self, *, seed: int | None = None, outputs: int | None = None) -> Classifier:
        """The network with new weights, of as many outputs as classes or as asked for."""
        data = self.run.data
        if outputs is not None:
            names = tuple(map(str, range(outputs)))
            data = replace(data, class_names=names)  # the network is built for their number
        seed = self.run.seed if seed is None else seed
        return new_model(self.options.model, data, seed=seed)

    def config(self, noise: float = 0.0) -> FitConfig:
        """The recipe, without label smoothing, which hides gradients by itself."""
        config = recipe(self.run.data, self.options.model, seed=self.run.seed, noise=noise).fit
        return replace(config, label_smoothing=0.0).with_epochs(self.options.epochs)


def _undefended(bench: Bench) -> Defended:
    return Defended(model=bench.base())


def _weight_decay(bench: Bench) -> Defended:
    decay = bench.options.weight_decay
    return Defended(model=bench.network("weight-decay", weight_decay=decay))


def _noise_in_training(bench: Bench) -> Defended:
    return Defended(model=bench.network("noise", noise=bench.options.noise))


def _pretraining(bench: Bench) -> Defended:
    epochs = 2 * bench.config().epochs  # half of them draw images
    network = bench.network(
        "pretrained",
        fit_pretrained,
        lambda: pretrainable(bench.untrained(), bench.shape),
        epochs=epochs,
    )
    return Defended(model=network)


def _noise_at_test(bench: Bench) -> Defended:
    model = partial(noisy, bench.network("noise", noise=bench.options.noise))
    std, draws = bench.options.noise, bench.options.draws
    return Defended(
        model=model(std=std),
        plain_attack="its gradient at one draw",
        adaptive=model(std=std, number=draws),
        adaptive_attack=f"EOT over {draws} draws of the noise",
    )


def _dropout_at_test(bench: Bench) -> Defended:
    rate, draws = bench.options.dropout, bench.options.draws
    network = bench.network("dropout", build=lambda: with_sampled_dropout(bench.untrained(), rate))
    return Defended(
        model=RandomDropout(network),
        plain_attack="its gradient at one mask",
        adaptive=RandomDropout(network, num_samples=draws),
        adaptive_attack=f"EOT over {draws} masks",
    )


def _glimpses(bench: Bench) -> Defended:
    options = bench.options
    look = partial(glimpses, bench.base(), pixels=options.shift)
    return Defended(
        model=look(number=options.glimpses),
        plain=bench.base(),
        plain_attack="transfer from the network alone",
        adaptive=look(number=max(options.draws, options.glimpses)),
        adaptive_attack=f"EOT over {max(options.draws, options.glimpses)} looks",
    )


def _ensemble(bench: Bench) -> Defended:
    seeds = range(bench.run.seed + 1, bench.run.seed + 1 + bench.options.members)
    members = [bench.network(f"member-{seed}", weights=seed, seed=seed) for seed in seeds]
    return Defended(
        model=Ensemble(members),
        plain=bench.base(),
        plain_attack="transfer from a network outside of it",
        adaptive_attack="gradient of all members together",
    )


def _clean_up(bench: Bench) -> Defended:
    network = bench.network(
        "clean-up",
        fit_clean_up,
        lambda: cleaned(bench.base(), bench.shape),
        epochs=2 * bench.config().epochs,
    )
    return Defended(
        model=network,
        plain=bench.base(),
        plain_attack="transfer from the classifier alone",
        adaptive_attack="gradient through both",
    )


def _output_codes(bench: Bench) -> Defended:
    codes = hadamard_codes(bench.run.data.num_classes)
    network = bench.network(
        "output-codes", build=lambda: coded(bench.untrained(outputs=codes.shape[1]), codes)
    )
    module = network.module
    assert isinstance(module, OutputCode)
    return Defended(
        model=network,
        adaptive=module.linear(),
        adaptive_attack="gradient of the bits, without tanh",
    )


def _bit_depth(bench: Bench) -> Defended:
    fewer = BitDepth(bench.options.bits)
    return Defended(
        model=nn.Sequential(fewer, bench.base()).eval(),
        plain_attack="its gradient as it is, which is 0",
        adaptive=nn.Sequential(BPDA(fewer), bench.base()).eval(),
        adaptive_attack="BPDA: the rounding passed on as the identity",
    )


def _adversarial(bench: Bench) -> Defended:
    def train(network: Classifier, data: Any, config: FitConfig, **more: Any) -> Any:
        attacked = AdversarialConfig(
            fit=config, method="pgd", eps=bench.eps, steps=4, curve_every=None
        )
        return adversarial_fit(network, data, attacked, **more)

    return Defended(model=bench.network("adversarial", train, augmentation=None))


# in the order of the table; the first is what the others are held against, the last is no failure
DEFENSES: Mapping[str, Callable[[Bench], Defended]] = {
    "undefended": _undefended,
    "weight decay": _weight_decay,
    "noise at train time": _noise_in_training,
    "generative pretraining": _pretraining,
    "noise at test time": _noise_at_test,
    "dropout at test time": _dropout_at_test,
    "multiple glimpses": _glimpses,
    "ensemble": _ensemble,
    "autoencoder clean-up": _clean_up,
    "error-correcting output codes": _output_codes,
    "bit-depth reduction": _bit_depth,
    "adversarial training": _adversarial,
}


def measure(run: StudyRun[Options]) -> dict[str, Any]:
    """Build each defense, and attack it twice."""
    bench = Bench(run)
    rows = choose_rows(run.data, run.options.per_class)
    found: list[dict[str, Any]] = []
    base = next(iter(DEFENSES))  # which the others are held against
    for name, build in DEFENSES.items():
        if run.options.defenses and name not in (base, *run.options.defenses):
            continue
        defended = build(bench)  # trains what is not on disk
        piece = run.part(
            f"attacked-{name.replace(' ', '-')}",
            partial(_attacked, run, name, defended, rows, bench.eps),
        )
        found.append({"name": name, **piece})
    return {
        "rows": len(rows),
        "model": run.options.model,
        "eps": bench.eps,
        "usual_eps": suite_eps(run.data),
        "defenses": found,
    }


def _attacked(
    run: StudyRun[Options], name: str, defended: Defended, rows: Tensor, eps: float
) -> dict[str, Any]:
    """Accuracies of one defense: clean, under the plain attack, under all attacks together."""
    images, labels = to_float(run.data.test.images(rows)), run.data.test.labels[rows]
    options, started = run.options, time.perf_counter()

    draws = any(getattr(part, "stochastic", False) for part in defended.model.modules())

    def left(attack: Attack, surrogate: nn.Module | None) -> tuple[Tensor, Tensor]:
        engine = Engine(
            defended.model.to(run.device),
            surrogate=surrogate,
            seed=run.seed,
            # one look with fresh numbers a row: who may ask again and again wins by luck
            stop="never" if draws else "first_success",
        )
        stage = f"{attack.name} on {name}"
        result = engine.run(attack, images, labels, sample_ids=rows, progress=run.rows(stage))
        return result.clean_correct, result.clean_correct & (result.logits.argmax(1) == labels)

    clean, plain = left(PGD(eps=eps, steps=options.steps), defended.plain)
    adaptive = plain.clone()
    for attack in (
        PGD(eps=eps, steps=options.adaptive_steps),
        APGD(eps=eps, steps=options.adaptive_steps, loss="dlr"),
    ):
        adaptive &= left(attack, defended.adaptive)[1]
    seconds = time.perf_counter() - started
    return {
        "plain_attack": defended.plain_attack,
        "adaptive_attack": defended.adaptive_attack,
        "clean": _share(_right(run, defended.model)),
        "clean_rows": len(run.data.test),
        "clean_attacked": _share(clean),  # of the rows that are attacked
        "plain": _share(plain),
        "adaptive": _share(adaptive),
        "seconds": seconds,
    }


def _right(run: StudyRun[Options], model: nn.Module) -> Tensor:
    """Which of all test images the defended model has right, at a draw each where it draws."""
    test = run.data.test
    images = to_float(test.images(torch.arange(len(test))))
    return predict(model, images, seed=run.seed) == test.labels


def _share(rows: Tensor) -> float:
    return rows.to(torch.float64).mean().item()


STUDY = Study(
    name="failed-defenses",
    title="Defenses that failed, attacked by somebody who knows them",
    source="Goodfellow, Bengio and Courville, Deep Learning, and the lectures on adversarial "
    "examples; attacked as in Athalye, Carlini and Wagner, arXiv:1802.00420, and Tramer et al., "
    "arXiv:2002.08347",
    data="digits",
    options=Options,
    quick={
        "model": "mnist_dense",
        "epochs": 8,
        "per_class": 5,
        "steps": 10,
        "adaptive_steps": 20,
        "draws": 4,
        "members": 2,
    },
    measure=measure,
    render=render,
)
