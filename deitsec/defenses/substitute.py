"""The substitute attack: a model trained on the answers of a hidden one, by few questions."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from deitsec.data import ArrayImageSet, DataSource, to_float
from deitsec.engine.guard import attack_mode
from deitsec.models import Classifier
from deitsec.models.black_box import BlackBox
from deitsec.training import FitConfig, TrainingEvent, fit
from deitsec.training.modes import place_of

_TOGETHER = 256  # images that are asked about, or differentiated, at once

# Papernot et al., section 5.1: 10 epochs a round, rate 0.01, momentum 0.9
_PAPER_FIT = FitConfig(
    epochs=10,
    batch_size=32,
    optimizer="momentum",
    lr=0.01,
    momentum=0.9,
    weight_decay=0.0,
    schedule="constant",
    clip_grad=None,
    validation=0.0,
)

Watch = Callable[[int, Classifier], float]
Progress = Callable[[int, TrainingEvent], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class SubstituteAttack:
    """How a substitute is trained (Papernot et al., arXiv:1602.02697, algorithms 1 and 2).

    Attributes:
        rounds: times that the images are augmented, rho in the paper; the substitute is trained
            once more than that. Without a reservoir each doubles the number of images.
        step: lambda, by how much an augmented image differs, on images in [0, 1]; whole levels of
            8 bits, as the images that are asked about have.
        period: tau, rounds after which the step changes its sign, and changes back (equation 6).
        reservoir: kappa, new images of a round, drawn from all by reservoir sampling; None takes an
            image for each.
        full_rounds: sigma, rounds before the reservoir.
        fit: training of each round, which goes on from the weights of the round before.
        seed: of the reservoir and of training.

    Raises:
        ValueError: an option out of range.
    """

    rounds: int = 6
    step: float = 0.1
    period: int = 3
    reservoir: int | None = None
    full_rounds: int = 3
    fit: FitConfig = field(default=_PAPER_FIT)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("rounds", 0), ("period", 1), ("full_rounds", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if not (self.step <= 1 and round(255 * self.step) >= 1):
            raise ValueError(f"step must be a level of 8 bits up to 1, got {self.step}")
        if self.reservoir is not None and self.reservoir < 1:
            raise ValueError(f"reservoir must be >= 1, got {self.reservoir}")

    def levels(self, number: int) -> int:
        """By how many levels of 8 bits round `number` (from 0) changes an image, with its sign."""
        return round(255 * self.step) * (-1) ** (number // self.period)

    def new_images(self, images: int, number: int) -> int:
        """How many images round `number` (from 0) makes of so many, where no budget ends it."""
        if self.reservoir is None or number < self.full_rounds:
            return images
        return min(images, self.reservoir)


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One training of the substitute.

    Attributes:
        number: from 0, which is trained on the first images alone.
        images: that it was trained on.
        queries: rows that the oracle was asked about so far, by this attack.
        watched: what `watch` said of the substitute; None without it.
    """

    number: int
    images: int
    queries: int
    watched: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Substituted:
    """What a substitute attack came to; the substitute itself is trained in place.

    Attributes:
        pixels: (N, C, H, W) uint8, the images that were asked about.
        labels: (N,) int64, what the oracle answered.
        rounds: one record a training.
        queries: rows that the oracle was asked about.
        stopped: whether the budget ended the augmentation before the last round.
    """

    pixels: Tensor
    labels: Tensor
    rounds: tuple[Round, ...]
    queries: int
    stopped: bool


def train_substitute(
    oracle: BlackBox,
    substitute: Classifier,
    pixels: Tensor,
    attack: SubstituteAttack,
    *,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Substituted:
    """Train a substitute in place on a few images and the answers of an oracle.

    Every image is asked about once. The budget of the oracle is kept to: of the last augmentation
    as many images are asked about as it has room for.

    Args:
        oracle: answers labels or scores, of which the largest is looked at, and counts.
        substitute: what is trained; it has as many classes as the oracle.
        pixels: (N, C, H, W) uint8 on the CPU, the first images: none that the oracle learnt from.
        attack: how.
        watch: called with the round and the substitute, its answer is kept in the round's record.
        progress: called with the round and a `TrainingEvent`.

    Raises:
        TypeError: an oracle that does not count, or pixels that are not uint8.
        ValueError: no image, other classes, or a budget smaller than the first images.
    """
    _check(oracle, substitute, pixels)
    generator = torch.Generator().manual_seed(attack.seed)
    before = oracle.queries
    labels = _ask(oracle, substitute, pixels)
    records: list[Round] = []
    stopped = False
    for number in range(attack.rounds + 1):
        if number:
            left = oracle.count.left
            new = _augmented(substitute, pixels, labels, attack, number - 1, left, generator)
            stopped = stopped or len(new) < attack.new_images(len(pixels), number - 1)
            if len(new) == 0:
                break
            labels = torch.cat([labels, _ask(oracle, substitute, new)])
            pixels = torch.cat([pixels, new])
        _train(substitute, pixels, labels, attack, number, progress)
        asked = oracle.queries - before
        watched = None if watch is None else watch(number, substitute)
        records.append(Round(number=number, images=len(labels), queries=asked, watched=watched))
    return Substituted(
        pixels=pixels,
        labels=labels,
        rounds=tuple(records),
        queries=oracle.queries - before,
        stopped=stopped,
    )


def label_direction(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the sign of the derivative of each label's probability in the image.

    With z the logits, it is that of z_y less the mean of the other logits, weighted by their
    softmax among themselves: dF_y = F_y (1 - F_y) d(z_y - sum_k q_k z_k), whose factor is positive
    and left out, since it underflows where the model is sure.

    Args:
        model: images in [0, 1] -> (B, K) logits; asked in eval mode, left as it was found.
        images: (B, C, H, W) in [0, 1].
        labels: (B,) int64.

    Returns:
        (B, C, H, W) of -1, 0 and 1, in the dtype of the images.
    """
    with attack_mode(model), torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = model(leaf)
        own = nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        others = logits.detach().masked_fill(own.bool(), -torch.inf).softmax(1)
        (slope,) = torch.autograd.grad(logits, leaf, own - others)
    return slope.sign()


def reservoir_rows(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw rows by reservoir sampling (algorithm 2; Vitter 1985): each is equally likely.

    Args:
        count: rows to draw from, 0 to count - 1.
        size: of the reservoir.
        generator: of the draws.

    Returns:
        (min(count, size),) int64.
    """
    kept = list(range(min(count, size)))
    for row in range(size, count):
        place = int(torch.randint(0, row + 1, (1,), generator=generator))
        if place < size:
            kept[place] = row
    return torch.tensor(kept, dtype=torch.int64)


def _augmented(
    substitute: Classifier,
    pixels: Tensor,
    labels: Tensor,
    attack: SubstituteAttack,
    number: int,
    left: int | None,
    generator: torch.Generator,
) -> Tensor:
    """New images: x + lambda sgn(dF_label / dx), of all images or of a reservoir of them."""
    size = attack.new_images(len(pixels), number)
    size = size if left is None else min(size, left)
    rows = torch.arange(size)
    if size < len(pixels):
        rows = reservoir_rows(len(pixels), size, generator)
    device, levels = place_of(substitute), attack.levels(number)
    new = [pixels[:0]]
    for part in rows.split(_TOGETHER):
        images = to_float(pixels[part].to(device))
        signs = label_direction(substitute, images, labels[part].to(device))
        moved = pixels[part].short() + levels * signs.short().cpu()
        new.append(moved.clamp(0, 255).to(torch.uint8))
    return torch.cat(new)


def _train(
    substitute: Classifier,
    pixels: Tensor,
    labels: Tensor,
    attack: SubstituteAttack,
    number: int,
    progress: Progress | None,
) -> None:
    answered = ArrayImageSet(pixels=pixels, labels=labels)
    data = DataSource(
        uri="the oracle's answers",
        name="answers",
        train=answered,
        test=answered,
        class_names=tuple(map(str, range(substitute.num_classes))),
    )
    config = replace(attack.fit, seed=attack.seed + number)
    tell = None if progress is None else (lambda event: progress(number, event))
    fit(substitute, data, config, progress=tell)


def _ask(oracle: BlackBox, substitute: Classifier, pixels: Tensor) -> Tensor:
    """The classes that the oracle gives: (N,) int64 on the CPU."""
    device = place_of(substitute)
    with attack_mode(oracle):
        answers = [oracle(to_float(part.to(device))).argmax(1) for part in pixels.split(_TOGETHER)]
    return torch.cat(answers).cpu()


def _check(oracle: object, substitute: Classifier, pixels: Tensor) -> None:
    if not isinstance(oracle, BlackBox):
        raise TypeError(
            f"oracle must be LabelsOnly(...) or ScoresOnly(...), which count what they are asked, "
            f"got {type(oracle).__name__}"
        )
    if oracle.num_classes != substitute.num_classes:
        raise ValueError(
            "oracle and substitute must have the same classes, got "
            f"{oracle.num_classes} and {substitute.num_classes}"
        )
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must be torch.uint8, got {pixels.dtype}")
    if pixels.ndim != 4 or len(pixels) == 0:
        raise ValueError(f"pixels must be (N, C, H, W), N >= 1, got {tuple(pixels.shape)}")
    left = oracle.count.left
    if left is not None and left < len(pixels):
        raise ValueError(
            f"the oracle has {left} queries left, fewer than the {len(pixels)} first images; give "
            "a larger budget or fewer images"
        )
