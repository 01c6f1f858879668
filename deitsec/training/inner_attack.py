"""The attack inside of a training step: projected gradient ascent on a frozen model."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from deitsec import ops
from deitsec.attacks.draws import normal
from deitsec.attacks.starts import l2_start
from deitsec.training.folding import folded
from deitsec.training.modes import frozen
from deitsec.types import Goal, Problem

InnerNorm = Literal["linf", "l2"]
Start = Literal["clean", "uniform", "noise"]

_STEPS = {"linf": ops.linf_step_, "l2": ops.l2_step_}
_NOISE = 1e-3  # standard deviation of the start of TRADES (arXiv:1901.08573, algorithm 1)
_NOISE_STREAM = 4  # 2 and 3 are those of the start in L2
_GOLDEN = 0x9E3779B97F4A7C15  # of splitmix64: seeds of neighbouring updates share no bits


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerAttack:
    """Steepest ascent of a loss within a ball (Madry et al., arXiv:1706.06083, eq. 2.1).

    The model answers in eval mode: an image is attacked as the deployed network would see it,
    whatever stands beside it in the batch, and the attack leaves no trace in the running statistics
    of batch norms. Its weights are frozen, so a step costs a forward pass and the gradient of the
    images, no gradient of a weight, and batch norms are folded into the convolutions before them.
    Nothing is read back from the device.

    Attributes:
        norm: of the ball.
        eps: its radius, on images in [0, 1].
        alpha: length of a step in that norm.
        steps: how many.
        start: `clean`; `uniform` in the ball; or `noise`, a normal step of deviation 0.001.
        loss: `ce`, the cross-entropy with the label, or `kl`, the divergence of the answer from the
            answer at the clean image (TRADES, arXiv:1901.08573, eq. 5).
        seed: of the random starts.
        channels_last: layout in which the model takes images.
    """

    norm: InnerNorm = "linf"
    eps: float
    alpha: float
    steps: int
    start: Start = "uniform"
    loss: Literal["ce", "kl"] = "ce"
    seed: int = 0
    channels_last: bool = False

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, rows: Tensor, update: int = 0
    ) -> Tensor:
        """Return attacked images.

        The start of an image hangs on the seed, its row and the update alone: not on the batch, nor
        on the processes that share it.

        Args:
            model: any mode and flags, which are put back.
            images: (B, C, H, W) in [0, 1], at least fp32.
            labels: (B,) int64.
            rows: (B,) int64, the identity of each image.
            update: tells the draws of one training step from those of another, >= 0.

        Returns:
            Shape, dtype and layout of `images`, within the ball and [0, 1].
        """
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        clean = images.contiguous()  # the fused ops take no other layout
        x = self._start(clean, labels, rows, update)
        take_step = _STEPS[self.norm]
        with frozen(model), folded(model), torch.enable_grad():
            answers = model(clean).detach().float() if self.loss == "kl" else None
            for _ in range(self.steps):
                leaf = x.requires_grad_()
                logits = model(leaf.contiguous(memory_format=layout))
                slope = _slope(logits.detach().float(), labels, answers)
                (grad,) = torch.autograd.grad(logits, leaf, slope.to(logits.dtype))
                x = leaf.detach()
                take_step(x, grad.contiguous(), clean, self.alpha, self.eps)
        return x.contiguous(memory_format=layout)

    def _start(self, clean: Tensor, labels: Tensor, rows: Tensor, update: int) -> Tensor:
        if self.start == "clean":
            return clean.clone()
        seed = (self.seed + (update + 1) * _GOLDEN) % (1 << 63)
        if self.start == "uniform" and self.norm == "linf":
            return ops.random_start(clean, rows, self.eps, seed)
        goal = Goal(y=labels, targeted=False)
        p = Problem(x=clean, y=labels, labels=labels, goal=goal, sample_ids=rows, seed=seed)
        if self.start == "uniform":
            return l2_start(p, self.eps)
        return (clean + _NOISE * normal(p, clean, _NOISE_STREAM).to(clean.dtype)).clamp_(0, 1)


def _slope(logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
    """(B, K) gradient of each row's loss in the logits."""
    if answers is None:
        return ops.cross_entropy_loss(logits, labels)[1]
    return ops.distillation_rows(logits, answers, None, 1.0, 1.0, False, 1.0, True)[1]
