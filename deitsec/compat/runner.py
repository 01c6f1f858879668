"""A model and the engines that know it, for callers who attack batch by batch."""

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import Attack
from deitsec.engine import AttackResult, Engine
from deitsec.engine.kept import Stop


class Runner:
    """Attacks one model; each run draws numbers of its own.

    Args:
        model: images in [0, 1] -> logits.
        seed: of every draw; None takes that of `torch.manual_seed`.
    """

    def __init__(self, model: nn.Module, seed: int | None = None) -> None:
        self.model = model
        self.seed = torch.initial_seed() % (1 << 63) if seed is None else seed
        self.rows = 0
        self.engines: dict[Stop, Engine] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def run(
        self,
        attack: Attack,
        images: Tensor,
        labels: Tensor | None,
        targets: Tensor | None,
        stop: Stop,
    ) -> AttackResult:
        """Attack images (B, C, H, W); without labels, those who are aimed at something.

        A label that is the target says nothing of what is true, and another takes its place.
        """
        if stop not in self.engines:
            self.engines[stop] = Engine(self.model, seed=self.seed, stop=stop)
        if targets is not None:
            another = (targets == 0).to(torch.int64)
            labels = another if labels is None else torch.where(labels == targets, another, labels)
        ids = torch.arange(self.rows, self.rows + len(images), device=images.device)
        self.rows += len(images)
        return self.engines[stop].run(attack, images, labels, targets, sample_ids=ids)
