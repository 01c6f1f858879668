"""A model and the engines that know it, for callers who attack batch by batch."""

import torch
from torch import Tensor, nn

from deitsec.attacks.attack import Attack
from deitsec.compat.scaled import place
from deitsec.engine import AttackResult, Engine
from deitsec.engine.guard import attack_mode, calculation
from deitsec.engine.kept import Stop

_IDENTITIES = 1 << 47  # half of those that a sample may have
_TOGETHER = 256  # images whose logits are asked for at once


class Runner:
    """Attacks one model.

    Args:
        model: images in [0, 1] -> logits.
        seed: of every draw, which are the same in each run then; with None each run draws numbers
            of its own, which follow from `torch.manual_seed`.
    """

    def __init__(self, model: nn.Module, seed: int | None = None) -> None:
        self.model = model
        self.seed = seed
        self.engines: dict[Stop, Engine] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return place(self.model)

    @torch.no_grad()
    def logits(self, images: Tensor, together: int = _TOGETHER) -> Tensor:
        """(B, K) at images in [0, 1], in eval mode and true fp32, `together` at once."""
        device = self.device
        with attack_mode(self.model), calculation(device, deterministic=False):
            found = [self.model(part.to(device)) for part in images.split(together)]
        return torch.cat(found).to(images.device)

    def predict(self, images: Tensor) -> Tensor:
        """(B,) classes of images in [0, 1], where the images are."""
        return self.logits(images).argmax(1)

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
            self.engines[stop] = Engine(self.model, seed=self.seed or 0, stop=stop)
        if targets is not None:
            another = (targets == 0).to(torch.int64)
            labels = another if labels is None else torch.where(labels == targets, another, labels)
        ids = torch.arange(len(images), device=images.device)
        if self.seed is None:
            ids += int(torch.randint(_IDENTITIES, ()))
        return self.engines[stop].run(attack, images, labels, targets, sample_ids=ids)
