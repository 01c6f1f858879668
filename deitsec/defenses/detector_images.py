"""Images to teach and to judge a detector by, and what classifier and detector say of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deitsec.attacks import Attack
from deitsec.data import ImageSet, to_float
from deitsec.defenses.detector import Detector
from deitsec.defenses.flight import in_flight
from deitsec.engine import Engine
from deitsec.engine.guard import attack_mode

_CHUNK = 512  # rows whose images are in memory at once
_BATCH = 256

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fooled:
    """What an attack made of some rows.

    Attributes:
        rows: (N,) int64 rows that were attacked.
        right: (N,) bool: what was attacked was right before.
        reached: (N,) bool: the attack reached its goal.
        pixels: (N, C, H, W) uint8 images after the attack, whatever came of it.
    """

    rows: Tensor
    right: Tensor
    reached: Tensor
    pixels: Tensor

    @property
    def fooled(self) -> Tensor:
        """(N,) bool: right before, and turned by the attack."""
        return self.right & self.reached

    @property
    def adversarial(self) -> Tensor:
        """(M, C, H, W) uint8 images that were right before, and fool the classifier now."""
        return self.pixels[self.fooled]


def fool(
    model: nn.Module,
    attack: Attack,
    images: ImageSet,
    rows: Tensor,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fooled:
    """Attack rows, and keep the images as files would: whole levels of 8 bits, within the ball.

    A detector that is shown floats learns that adversarial images have values between the levels,
    and is worth nothing against an image file. Each row keeps its image of highest loss (of an
    attack that minimises, the nearest), not the first that crosses the border.

    Args:
        model: what is attacked; judged at the rounded images.
        attack: what is run.
        images: where the images are.
        rows: (N,) int64, which; they are the sample ids too.
        seed: of the draws.
        progress: called with (rows done, rows in all).

    Raises:
        ValueError: what `Engine.run` raises: an attack that needs gradients of a model that gives
            none, say.
    """
    engine = Engine(model, seed=seed, stop="never", quantize=True)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    done = 0
    for chunk in rows.split(_CHUNK):
        found = engine.run(
            attack, to_float(images.images(chunk)), images.labels[chunk], sample_ids=chunk
        )
        pixels = (found.adv * 255).round().byte().cpu()
        parts.append((found.clean_correct.cpu(), found.success.cpu(), pixels))
        done += len(chunk)
        if progress is not None:
            progress(done, len(rows))
    right, reached, pixels = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Fooled(rows=rows, right=right, reached=reached, pixels=pixels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What classifier and detector say of some images.

    Attributes:
        evidence: (N,) float32 on the CPU.
        predicted: (N,) int64 on the CPU.
        detected: (N,) bool on the CPU: the evidence is above the detector's threshold.
    """

    evidence: Tensor
    predicted: Tensor
    detected: Tensor


def look(
    detector: Detector,
    classifier: nn.Module,
    pixels: Tensor,
    *,
    sample_ids: Tensor | None = None,
    seed: int = 0,
) -> Looked:
    """Ask classifier and detector about images (N, C, H, W) uint8.

    Args:
        detector: of this classifier.
        classifier: its draws, if it makes any, belong to the samples.
        pixels: the images.
        sample_ids: (N,) int64 identity of each row; None numbers them from 0.
        seed: of the classifier's draws.
    """
    device = detector.threshold.device
    ids = torch.arange(len(pixels)) if sample_ids is None else sample_ids
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with attack_mode(detector, classifier), torch.no_grad():
        for some, own in zip(pixels.split(_BATCH), ids.split(_BATCH), strict=True):
            images = to_float(some.to(device))
            with in_flight(own.to(device), seed):
                logits = classifier(images)
            evidence = detector.evidence(images, logits)
            predicted, detected = logits.argmax(1), evidence > detector.threshold
            parts.append((evidence.float().cpu(), predicted.cpu(), detected.cpu()))
    evidence, predicted, detected = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Looked(evidence=evidence, predicted=predicted, detected=detected)
