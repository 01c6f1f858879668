"""Randomised smoothing: the class that wins under Gaussian noise, and how far it surely holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from deitsec.attacks.draws import ids_at, normal_of
from deitsec.defenses.binomial import check_alpha, lower_bound, tie_p_value
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.memory import rows_by_size
from deitsec.engine.rows import check_images
from deitsec.models import EOT
from deitsec.models.transforms import GaussianNoise

ABSTAIN = -1
"""The class of a row on which no class was found to win."""

Progress = Callable[[int, int], object]

# keeps these draws apart from those of attacks; the streams, from each other
_SEED = 0x53_4D_4F_4F_54_48
_PREDICT, _SELECT, _ESTIMATE = 0, 1, 2
_MOST_ROWS = 1000
_LOST = -(1 << 40)  # outweighs all votes that there may be


@dataclass(frozen=True, kw_only=True, slots=True)
class Votes:
    """The smoothed classifier's answers.

    Attributes:
        classes: (N,) int64, `ABSTAIN` where the votes of the top two classes were too near.
        counts: (N, K) int64 noisy copies that the model put into each class.
        alpha: rate at which an answer other than the true winner is returned, at most.
    """

    classes: Tensor
    counts: Tensor
    alpha: float

    @property
    def leaders(self) -> Tensor:
        """(N,) int64 the class with most votes, also where the classifier abstains."""
        return self.counts.argmax(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificates:
    """Radii within which the smoothed classifier's answer cannot be changed.

    Attributes:
        classes: (N,) int64, `ABSTAIN` where nothing was certified.
        radii: (N,) float64 L2 radius on images in [0, 1]; 0 where it abstains.
        p_lower: (N,) float64 lower bound of the probability of the class under noise.
        votes: (N,) int64 of the class, among `samples`.
        samples: noisy copies of each image that were counted.
        sigma: deviation of the noise.
        alpha: rate of failure of each certificate, at most.
    """

    classes: Tensor
    radii: Tensor
    p_lower: Tensor
    votes: Tensor
    samples: int
    sigma: float
    alpha: float


class SmoothedClassifier(nn.Module):
    """The class that a model gives most often under Gaussian noise (Cohen, arXiv:1902.02918).

    `g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c)`. `predict` and `certify` count hard votes of the
    model; they are the defense. They draw noise that belongs to the sample: it depends on `seed`,
    the sample id and the number of the copy, not on batches, order or device, and `certify` picks
    the class by other copies than it counts.

    As a module it is what an attacker who knows the defense climbs: `forward` gives the logarithm
    of the mean softmax over `num_samples` noisy copies, whose cross-entropy is the objective of
    SmoothAdv (Salman et al., arXiv:1906.04584, section 2.2), with the draws of `EOT`. Hard votes
    have no gradient, and in the mean logits of plain EOT (`noisy`) the copies that the model is
    surest of weigh most. Its answers may differ from those of `predict` near a tie, so adversarial
    images are judged by `predict`: see `attack_smoothed`.

    Args:
        model: (B, C, H, W) images -> (B, K) logits; best trained under the same noise
            (`Augmentation.noise`). The noisy copies are not clipped to [0, 1].
        sigma: standard deviation of the noise on images in [0, 1], > 0.
        num_samples: noisy copies that `forward` averages over, >= 1.
        batch_size: noisy copies that go through the model together in `predict` and `certify`; None
            goes by the image size.
        seed: of the draws.

    Raises:
        ValueError: sigma not positive and finite, num_samples or batch_size below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        sigma: float,
        *,
        num_samples: int = 16,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sigma(sigma)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        noise = GaussianNoise(std=sigma)
        self.noisy = EOT(model, noise, num_samples=num_samples, seed=seed)
        self.sigma = sigma
        self.batch_size = batch_size
        self.seed = seed
        self.training = model.training

    @property
    def model(self) -> nn.Module:
        """The model that is smoothed."""
        return self.noisy.model

    def forward(self, images: Tensor) -> Tensor:
        """Return the log of the mean softmax (B, K) over noisy copies of images (B, C, H, W)."""
        scores = self.noisy.answers(images).log_softmax(-1)
        return scores.logsumexp(0) - math.log(len(scores))

    def predict(
        self,
        images: Tensor,
        n: int = 1000,
        alpha: float = 0.001,
        *,
        sample_ids: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Votes:
        """Return the winning class of each image, or abstain (PREDICT, section 3.2.1).

        A class is returned where the votes of the top two refute, at level alpha, that both are
        equally likely (binomial test, two-sided); so with probability 1 - alpha at least a class
        that is returned is g(x).

        Args:
            images: (N, C, H, W) float in [0, 1], on any device.
            n: noisy copies of each image, >= 1.
            alpha: in (0, 1).
            sample_ids: (N,) int64 identity of each row; None numbers them from 0.
            progress: called with (copies done, copies in all).

        Raises:
            TypeError: images that are not floating.
            ValueError: n, alpha or images out of range, or a model that returns something else than
                finite (B, K) logits.
        """
        check_copies(n=n)
        check_alpha(alpha)
        counts = self._votes(images, [(_PREDICT, n)], sample_ids, progress)[0]
        top = counts.topk(2, dim=1)
        first, second = (top.values[:, i].numpy() for i in (0, 1))
        sure = torch.from_numpy(tie_p_value(first, second) <= alpha)
        classes = torch.where(sure, top.indices[:, 0], ABSTAIN)
        return Votes(classes=classes, counts=counts, alpha=alpha)

    def certify(
        self,
        images: Tensor,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        *,
        sample_ids: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Certificates:
        """Return each image's class, and the L2 radius within which it holds (CERTIFY, 3.2.2).

        The class with most of `n0` votes is guessed; its share of `n` fresh votes gives a lower
        bound p of its probability (`lower_bound`, level alpha). Where p > 1/2, the class is g's
        within `sigma * Phi^-1(p)` (theorem 1, with 1 - p for the runner-up), and the whole is wrong
        with probability alpha at most; elsewhere it abstains.

        Args:
            images: (N, C, H, W) float in [0, 1], on any device.
            n0: noisy copies that pick the class, >= 1.
            n: noisy copies that are counted, >= 1; the radius is at most
                sigma * Phi^-1(alpha^(1/n)).
            alpha: in (0, 1).
            sample_ids, progress: as in `predict`.

        Raises:
            TypeError, ValueError: as in `predict`.
        """
        from scipy.special import ndtri

        check_copies(n0=n0, n=n)
        check_alpha(alpha)
        picks, counts = self._votes(images, [(_SELECT, n0), (_ESTIMATE, n)], sample_ids, progress)
        guess = picks.argmax(1)
        votes = counts.gather(1, guess[:, None])[:, 0]
        p_lower = lower_bound(votes.numpy(), n, alpha)
        sure = p_lower > 0.5
        radii = np.where(sure, self.sigma * ndtri(np.where(sure, p_lower, 0.5)), 0.0)
        return Certificates(
            classes=torch.where(torch.from_numpy(sure), guess, ABSTAIN),
            radii=torch.from_numpy(radii),
            p_lower=torch.from_numpy(p_lower),
            votes=votes,
            samples=n,
            sigma=self.sigma,
            alpha=alpha,
        )

    def _votes(
        self,
        images: Tensor,
        rounds: list[tuple[int, int]],
        sample_ids: Tensor | None,
        progress: Progress | None,
    ) -> list[Tensor]:
        """(N, K) int64 votes on the CPU for each round of (stream, copies)."""
        check_images(images)
        ids = _checked_ids(images, sample_ids)
        most = self.batch_size or min(_MOST_ROWS, 4 * rows_by_size(images.shape[1:]))
        device = next((p.device for p in self.parameters()), images.device)
        total, done = len(images) * sum(copies for _, copies in rounds), 0
        with attack_mode(self), torch.no_grad(), calculation(device, deterministic=False):
            found: list[list[Tensor]] = [[] for _ in rounds]
            some = max(1, most // max(copies for _, copies in rounds))
            for x, who in zip(images.split(some), ids.split(some), strict=True):
                x, who = x.to(device), who.to(device)
                for (stream, copies), counts in zip(rounds, found, strict=True):
                    tally = 0
                    for start in range(0, copies, most // len(x)):
                        number = min(copies - start, most // len(x))
                        tally = tally + self._count(x, who, stream, start, number)
                        done += len(x) * number
                        if progress is not None:
                            progress(done, total)
                    assert isinstance(tally, Tensor)
                    counts.append(tally)
            return [_checked_votes(torch.cat(counts).cpu()) for counts in found]

    def _count(self, x: Tensor, ids: Tensor, stream: int, start: int, number: int) -> Tensor:
        """(B, K) votes of the copies numbered from `start`, on the device, without waiting for it.

        NaN logits vote for nobody and take away all votes of the row, which is how they are seen.
        """
        copies = torch.arange(start, start + number, device=x.device).repeat(len(x))
        keys = ids_at(ids.repeat_interleave(number), copies)
        many = x.repeat_interleave(number, 0)
        noise = normal_of(keys, many, self.seed ^ _SEED, stream)
        logits = self.model(many + (self.sigma * noise).to(x.dtype))
        _check_logits(logits, len(many))
        classes = torch.arange(logits.shape[1], device=x.device)
        votes = logits.argmax(1, keepdim=True) == classes
        lost = ~logits.isfinite().all(1, keepdim=True)
        counts = torch.where(lost, _LOST, votes.long())
        return counts.reshape(len(x), number, -1).sum(1)


def check_sigma(sigma: float) -> None:
    """Raise a ValueError for a deviation that is not positive and finite."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be > 0 and finite, got {sigma}")


def check_copies(**numbers: int) -> None:
    """Raise a ValueError for a number of noisy copies below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _checked_ids(images: Tensor, sample_ids: Tensor | None) -> Tensor:
    if sample_ids is None:
        return torch.arange(len(images))
    if sample_ids.dtype != torch.int64 or sample_ids.shape != (len(images),):
        raise ValueError(
            f"sample_ids must be ({len(images)},) torch.int64, "
            f"got {tuple(sample_ids.shape)} {sample_ids.dtype}"
        )
    return sample_ids


def _check_logits(logits: object, rows: int) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f"the model must return a tensor of logits, got {type(logits).__name__}")
    if logits.ndim != 2 or len(logits) != rows or logits.shape[1] < 2:
        got = tuple(logits.shape)
        raise ValueError(f"the model must return ({rows}, classes) logits, 2 or more, got {got}")


def _checked_votes(counts: Tensor) -> Tensor:
    bad = (counts < 0).any(1).nonzero()
    if len(bad):
        raise ValueError(
            f"the model returned NaN or inf for noisy copies of {len(bad)} of {len(counts)} images "
            f"(the first is row {int(bad[0])})"
        )
    return counts
