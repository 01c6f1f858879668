"""Virtual adversarial training: predictions that stay where they are around every image."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deitsec import ops
from deitsec.attacks.smoothness import divergence, unit
from deitsec.data import DataSource, ImageSet, balanced_rows, to_float
from deitsec.data.image_set import UNLABELLED
from deitsec.models import Classifier
from deitsec.models.networks import HiddenNoise
from deitsec.models.timm_import import import_timm
from deitsec.training.augment import augment
from deitsec.training.config import FitConfig
from deitsec.training.loop import Objective, run_epochs
from deitsec.training.modes import mode_kept, place_of, weights_frozen
from deitsec.training.processes import find_processes
from deitsec.training.result import FitResult, Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualConfig:
    """How a classifier is trained virtually.

    Attributes:
        fit: the training recipe; an epoch is a pass over all images, labelled or not. Where some
            are not labelled, its `validation` must be 0: labels are too few to keep any out.
        labelled: training images of each class whose labels are used, drawn by `fit.seed`; the
            others count as unlabelled. None uses every label that the data has.
        alpha: weight of the local smoothness, >= 0; with 0 and no entropy, unlabelled images teach
            nothing, which is what to compare with.
        eps: L2 length of the virtual adversarial perturbation, on images in [0, 1].
        xi: L2 distance at which the power iteration takes its gradient, > 0.
        steps: power iterations, >= 1.
        entropy: weight of the entropy of the predictions, >= 0 ("VAT+EntMin").

    Raises:
        ValueError: if a value is out of its range.
    """

    fit: FitConfig = field(default_factory=FitConfig)
    labelled: int | None = None
    alpha: float = 1.0
    eps: float = 2.0
    xi: float = 1e-2
    steps: int = 1
    entropy: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("labelled", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        for name in ("alpha", "entropy"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)}")
        for name in ("eps", "xi"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be > 0 and finite, got {getattr(self, name)}")


def virtual_fit(
    model: Classifier,
    data: DataSource,
    config: VirtualConfig,
    *,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train a classifier in place on few labels and all images (Miyato et al., arXiv:1704.03976).

    CE(labelled) + alpha LDS(all) + entropy H(all), eq. 8: LDS(x) = KL(p(x) || p(x + r)) at the
    virtual adversarial perturbation r, p(x) taken as constant. Each step takes a batch of all
    images and, where some are unlabelled, a batch of labelled ones beside it, drawn with
    replacement; several processes share both, and each draws its own share of the labelled one.
    Everything else is as in `fit`.

    Args:
        model: on the device to train on.
        data: its training split may hold unlabelled images (label -1).
        config: how.
        out: folder of the state file, or None to write nothing.
        resume: go on from the state file in `out`; without one, start.
        progress: called with a `TrainingEvent` every few steps and at each epoch's end.

    Raises:
        ValueError: if model and data do not fit, there are fewer labels than asked for or none, or
            a run is to be resumed with another recipe, data or architecture.
        TrainingDiverged: if the loss or a weight stops being finite; the model then holds its last
            good weights.
    """
    if data.train is None:
        raise ValueError(f"{data.uri} has no training split: give a source that has one")
    rows = labelled_rows(data.train, config, data.num_classes)
    some = len(rows) < len(data.train)
    if some and config.fit.validation:
        raise ValueError(
            "fit.validation must be 0 where some training images are unlabelled, "
            f"got {config.fit.validation}: the few labels are for training"
        )
    teach = _Labelled(model, data.train, rows, config.fit) if some else None
    return run_epochs(
        model,
        data,
        config.fit,
        _objective(config, teach),
        settings={"method": "virtual", **_plain(config)},
        out=None if out is None else Path(out),
        resume=resume,
        progress=progress,
        needs_labels=False,
    )


def labelled_rows(train: ImageSet, config: VirtualConfig, num_classes: int) -> Tensor:
    """(n,) int64 ascending: the rows of a training split whose labels are used.

    Raises:
        ValueError: fewer labels than asked for, or none.
    """
    known = torch.nonzero(train.labels != UNLABELLED).flatten()
    if len(known) == 0:
        raise ValueError("no training image has a label: label a few of each class")
    if config.labelled is None:
        return known
    generator = torch.Generator().manual_seed(config.fit.seed)
    shuffled = known[torch.randperm(len(known), generator=generator)]
    chosen = balanced_rows(train.labels[shuffled], config.labelled, num_classes)
    return shuffled[chosen].sort().values


def local_smoothness(
    model: nn.Module, images: Tensor, clean: Tensor, *, eps: float, xi: float, steps: int
) -> Tensor:
    """Mean of KL(p(x) || p(x + r)) at the virtual adversarial perturbation r, of L2 length eps.

    r comes by power iteration from a direction of the global random stream (algorithm 1). Dropout
    is off and batch norm goes by the batch without noting it, so that r alone moves the
    prediction. It runs in fp32: half precision has no digits for a distance of xi.

    Args:
        model: (B, C, H, W) images -> (B, K) logits, in the mode to train in.
        images: (B, C, H, W) in [0, 1]; x + r is not clipped to it, as in the paper.
        clean: (B, K) logits at the images, in the same surroundings (`undisturbed`).
        eps, xi, steps: see `VirtualConfig`.

    Returns:
        Scalar, >= 0, differentiable in the weights; no gradient flows through r or p(x).
    """
    clean = _widened(clean.detach())
    with undisturbed(model):
        direction = unit(torch.randn_like(images))
        with weights_frozen(model):
            for _ in range(steps):
                leaf = (images + xi * direction).requires_grad_()
                moved = divergence(model(leaf), clean)
                (grad,) = torch.autograd.grad(moved.sum(), leaf)
                direction = unit(grad, otherwise=direction)
        logits = _widened(model(images + eps * direction))
        return ops.distillation_loss(logits, clean, None, 1.0, 1.0)


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def undisturbed(model: nn.Module) -> Generator[None, None, None]:
    """Answer by the images alone: fp32, no dropout, no noise, and no running statistic moved.

    Batch norm in train mode still normalises by the batch, as the step that is trained does.
    """
    dropouts = nn.modules.dropout._DropoutNd  # pyright: ignore[reportPrivateUsage]
    drops = (dropouts, import_timm("layers").DropPath, HiddenNoise)
    counting = [
        part
        for part in model.modules()
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats  # pyright: ignore[reportPrivateUsage]
    ]
    with mode_kept(model), torch.autocast(place_of(model).type, enabled=False):
        for part in model.modules():
            if isinstance(part, drops):
                part.eval()
        try:
            for part in counting:
                part.track_running_stats = not part.training
            yield
        finally:
            for part in counting:
                part.track_running_stats = True


class _Labelled:
    """Batches of the labelled rows, with replacement, moved as all images are."""

    def __init__(self, model: Classifier, train: ImageSet, rows: Tensor, config: FitConfig) -> None:
        self._train = train
        self._rows = rows
        self._config = config
        self._device = place_of(model)
        count = find_processes(self._device).count
        self._size = max(1, config.batch_size // count)

    def __call__(self) -> tuple[Tensor, Tensor]:
        # the global stream, which the state of a run holds: a resumed run draws what it would have
        picked = self._rows[torch.randint(len(self._rows), (self._size,))]
        images = to_float(self._train.images(picked).to(self._device))
        if self._config.augmentation is not None:
            images = augment(images, self._config.augmentation, torch.default_generator)
        if self._config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, self._train.labels[picked].to(self._device)


def _objective(config: VirtualConfig, teach: _Labelled | None) -> Objective:
    smoothing = config.fit.label_smoothing

    def objective(model: Classifier, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        shown, known = (images, labels) if teach is None else teach()
        loss = cross_entropy(model(shown).float(), known, label_smoothing=smoothing)
        if config.alpha == 0 and config.entropy == 0:
            return loss
        with undisturbed(model), torch.set_grad_enabled(config.entropy > 0):
            clean = _widened(model(images))
        if config.alpha:
            smooth = local_smoothness(
                model, images, clean, eps=config.eps, xi=config.xi, steps=config.steps
            )
            loss = loss + config.alpha * smooth
        if config.entropy:
            entropy = -(clean.softmax(1) * clean.log_softmax(1)).sum(1).mean()
            loss = loss + config.entropy * entropy
        return loss

    return objective


def _plain(config: VirtualConfig) -> dict[str, object]:
    settings = asdict(config)
    fit = settings.pop("fit")
    return {**settings, **fit}
