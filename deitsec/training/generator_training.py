"""A generator of adversarial perturbations, trained against a model (AdvGAN)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call  # pyright: ignore[reportUnknownVariableType]

import deitsec
from deitsec.attacks.draws import ids_at, uniform_of
from deitsec.attacks.generator_network import GeneratorNetwork
from deitsec.attacks.perturbation_generator import PerturbationGenerator
from deitsec.data import DataSource, ImageSet, to_float
from deitsec.data.subset import Subset
from deitsec.engine.access import access_of
from deitsec.models import Classifier, model_sha256
from deitsec.training.discriminator import Discriminator
from deitsec.training.evaluate import predict
from deitsec.training.generator_config import GeneratorConfig
from deitsec.training.loop import run_epochs
from deitsec.training.method import Batch, Judgement, Method
from deitsec.training.modes import eval_mode, frozen, place_of
from deitsec.training.result import EpochRecord, FitResult, Progress

_TARGETS = 3  # stream of the random targets
_JUDGED = -1  # the step that the validation rows draw their targets at


@dataclass(frozen=True, kw_only=True)
class TrainedGenerator:
    """A generator, and how its training went.

    Attributes:
        generator: with the weights of the best epoch, on the model's device.
        fit: the run; an epoch's `validation_accuracy` is the attack's success on the validation
            rows, at targets that are the same in each epoch.
    """

    generator: PerturbationGenerator
    fit: FitResult


def train_generator(
    classifier: Classifier,
    data: DataSource,
    config: GeneratorConfig | None = None,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainedGenerator:
    """Train a network that makes images adversarial to a model in one pass (arXiv:1801.02610).

    The loss of the generator G on images x is that of the paper's equations 1 to 4, with the margin
    of Carlini and Wagner and least squares for the GAN (section 3.2 there):

        mean(max(margin(f(x + G(x))), -kappa)) + gan_weight * mean((D(x + G(x)) - 1)^2) / 2
            + hinge_weight * mean(max(0, |G(x)|_2 - hinge))

    and the discriminator D learns from (mean((D(x) - 1)^2) + mean(D(x + G(x))^2)) / 2 of the same
    images in the same step. G(x) is eps times a tanh, and x + G(x) is clipped to the box. A row
    that shows its target has no say. The test split is not read; `out`, `resume` and `progress` are
    as in `fit`, and an interrupted run that is resumed gives the same weights.

    Args:
        classifier: what is attacked; it has to give gradients, and is left as it was found.
        data: its `train` split is used.
        config: how; None takes the defaults.
        out: folder of the state file, or None to write nothing.
        resume: go on from the state file in `out`; without one, start.
        progress: called with a `TrainingEvent` every few steps and at each epoch's end.

    Raises:
        ValueError: a model that gives no gradients, a target that it does not have or that every
            image shows, data that do not fit it, or what `fit` raises.
        TrainingDiverged: if the loss or a weight stops being finite.
    """
    config = GeneratorConfig() if config is None else config
    _check(classifier, data, config)
    game = _fresh(data, config).to(place_of(classifier))
    sha256 = model_sha256(classifier)
    identity = {"name": classifier.name, "sha256": sha256}
    own = {name: value for name, value in asdict(config).items() if name != "fit"}
    settings = {"method": "advgan", **own, "against": identity, **asdict(config.fit)}
    players = Classifier(
        game,
        name="advgan",
        num_classes=data.num_classes,
        in_chans=None,
        input_size=None,
        mean=(0.0,),
        std=(1.0,),
    )
    with frozen(classifier):
        result = run_epochs(
            players,
            _some(data, config),
            config.fit,
            _Rivalry(classifier, config),
            settings=settings,
            out=None if out is None else Path(out),
            resume=resume,
            progress=progress,
        )
    generator = PerturbationGenerator(
        network=game.generator.requires_grad_(False).eval(),
        eps=config.eps,
        shape=data.test.shape,
        num_classes=data.num_classes,
        target=config.target,
        model=identity,
        training={
            "settings": settings,
            "data": {"uri": data.uri, "sha256": data.sha256},
            "rows": result.num_train,
            "best_epoch": result.best_epoch,
            "seconds": result.seconds,
            "deitsec": deitsec.__version__,
        },
    )
    return TrainedGenerator(generator=generator, fit=result)


class _Game(nn.Module):
    """Both networks; the discriminator is left out where it has no say."""

    def __init__(self, generator: GeneratorNetwork, discriminator: Discriminator | None) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator


class _Rivalry(Method):
    """The losses of both, each in its own weights, and the success on the validation rows."""

    def __init__(self, classifier: Classifier, config: GeneratorConfig) -> None:
        self.classifier, self.config = classifier, config
        self.clean: Tensor | None = None  # (n,) what the validation rows are taken for

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """See `Method`."""
        config, game = self.config, cast(_Game, model.module)
        aims = self._aims(batch.labels, batch.rows, batch.update)
        moved, change = self._moved(game.generator, batch.images, aims)
        margin = self._margin(self.classifier(moved).float(), batch.labels, aims)
        counts = torch.ones_like(margin) if aims is None else (aims != batch.labels).float()
        total = (margin.clamp(min=-config.kappa) * counts).sum() / counts.sum().clamp(min=1)
        if config.hinge_weight:
            length = torch.linalg.vector_norm(change.float().flatten(1), dim=1)
            total = total + config.hinge_weight * (length - config.hinge).clamp(min=0).mean()
        if game.discriminator is not None:
            total = total + self._gan(game.discriminator, batch.images, moved)
        return total

    def judge(
        self, model: Classifier, train: ImageSet, rows: Tensor, history: Sequence[EpochRecord]
    ) -> Judgement:
        """See `Method`: the accuracy is the share of rows that fall, of those that can."""
        if not len(rows):
            return Judgement()
        if self.clean is None:
            self.clean = predict(self.classifier, train, rows).argmax(1)
        labels = train.labels[rows]
        aims = self._aims(labels, rows, _JUDGED)
        logits = self._attacked(cast(_Game, model.module).generator, train, rows, aims)
        answers = logits.argmax(1)
        if aims is None:
            can, fell = self.clean == labels, answers != labels
        else:
            can, fell = (self.clean != aims) & (labels != aims), answers == aims
        if not can.any():
            return Judgement(note="no validation row can fall")
        margin = self._margin(logits, labels, aims)[can].clamp(min=-self.config.kappa)
        return Judgement(accuracy=fell[can].float().mean().item(), loss=margin.mean().item())

    def _attacked(
        self, generator: GeneratorNetwork, train: ImageSet, rows: Tensor, aims: Tensor | None
    ) -> Tensor:
        """(n, K) logits at the adversarial images of some rows, fp32 on the CPU."""
        device, size = place_of(generator), self.config.fit.batch_size
        found: list[Tensor] = []
        with eval_mode(generator), torch.no_grad():
            for start in range(0, len(rows), size):
                some = slice(start, start + size)
                images = to_float(train.images(rows[some]).to(device))
                asked = None if aims is None else aims[some].to(device)
                moved, _ = self._moved(generator, images, asked)
                found.append(self.classifier(moved).float().cpu())
        return torch.cat(found)

    def _aims(self, labels: Tensor, rows: Tensor, step: int) -> Tensor | None:
        """(B,) the classes that are to win; a random one belongs to row and step."""
        target = self.config.target
        if target is None:
            return None
        if target != "any":
            return torch.full_like(labels, target)
        others = self.classifier.num_classes - 1
        ids = ids_at(rows, torch.full_like(rows, step))
        drawn = uniform_of(ids, labels.float()[:, None], self.config.fit.seed, _TARGETS)[:, 0]
        offset = (drawn * others).long().clamp(max=others - 1)
        return (labels + 1 + offset) % self.classifier.num_classes

    def _moved(
        self, generator: GeneratorNetwork, images: Tensor, aims: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The adversarial images, and what was added before the box stopped it."""
        told = aims if self.config.target == "any" else None
        change = self.config.eps * generator(images, told)
        return (images + change).clamp(0, 1), change

    @staticmethod
    def _margin(logits: Tensor, labels: Tensor, aims: Tensor | None) -> Tensor:
        """(B,) by how much the label is ahead of all others, or the best other of the target."""
        at = (labels if aims is None else aims)[:, None]
        ours = logits.gather(1, at)[:, 0]
        other = logits.scatter(1, at, -torch.inf).amax(1)
        return ours - other if aims is None else other - ours

    def _gan(self, discriminator: Discriminator, images: Tensor, moved: Tensor) -> Tensor:
        """Both sides of the game: each sees the other's weights as they are."""
        fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
        believed: Tensor = functional_call(discriminator, fixed, (moved,))
        deceit = (believed.float() - 1).square().mean() / 2
        real, made = discriminator(images).float(), discriminator(moved.detach()).float()
        return self.config.gan_weight * deceit + (
            ((real - 1).square().mean() + made.square().mean()) / 2
        )


def _check(classifier: Classifier, data: DataSource, config: GeneratorConfig) -> None:
    if access_of(classifier) != "gradient":
        raise ValueError(
            f"a generator learns from gradients, and {classifier.name} gives none: train it "
            "against a substitute (`deitsec substitute`) and transfer"
        )
    if classifier.num_classes != data.num_classes:
        raise ValueError(
            f"{classifier.name} has {classifier.num_classes} classes, and {data.uri} has "
            f"{data.num_classes}"
        )
    target = config.target
    if not isinstance(target, int):
        return
    if not 0 <= target < data.num_classes:
        raise ValueError(f"target must be in 0 to {data.num_classes - 1}, got {target}")
    if data.train is not None and bool((data.train.labels == target).all()):
        raise ValueError(f"every image shows the target class {target}: nothing is left to learn")


def _some(data: DataSource, config: GeneratorConfig) -> DataSource:
    """The data with no more training rows than asked, chosen by the seed."""
    if data.train is None or config.rows is None or config.rows >= len(data.train):
        return data
    seeded = torch.Generator().manual_seed(config.fit.seed)
    rows = torch.randperm(len(data.train), generator=seeded)[: config.rows].sort().values
    return replace(data, train=Subset(base=data.train, rows=rows))


def _fresh(data: DataSource, config: GeneratorConfig) -> _Game:
    """Both networks with new weights, drawn by the seed."""
    channels = data.test.shape[0]
    fork_rng: Any = torch.random.fork_rng  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    with fork_rng([]):
        torch.default_generator.manual_seed(config.fit.seed)
        generator = GeneratorNetwork(
            channels,
            width=config.width,
            blocks=config.blocks,
            classes=data.num_classes if config.target == "any" else 0,
        )
        rival = Discriminator(channels, width=config.width) if config.gan_weight else None
        return _Game(generator, rival)
