"""Expectation over transformation: a model that looks at several random versions of an image."""

import torch
from torch import Tensor, nn

from deitsec import ops
from deitsec.models.transforms import Transform
from deitsec.types import IN_FLIGHT, InFlight

# keeps these draws apart from the starts of attacks, which have the seed itself
_SEED = 0x45_4F_54


class EOT(nn.Module):
    """Mean logits over random transformations (Athalye et al., arXiv:1707.07397, section 2.2).

    An attack on it finds images that stay adversarial under the transformations, or gets past a
    defense that draws random numbers. Within an engine the draws belong to the sample: they depend
    on seed, sample id and step, not on the batch; a success counts only when draws that the attack
    has not seen confirm it. Outside of one, row i of a batch is sample i.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits.
        transform: what is done to an image; see `deitsec.models.transforms`.
        num_samples: transformations of each image, at least 1; they go through the model together.
        seed: of the draws outside an engine.

    Raises:
        ValueError: num_samples below 1.
    """

    stochastic = True

    def __init__(
        self, model: nn.Module, transform: Transform, *, num_samples: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        self.model = model
        self.transform = transform
        self.num_samples = num_samples
        self.seed = seed
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean logits (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.answers(images).mean(0)

    def answers(self, images: Tensor) -> Tensor:
        """Return the logits (num_samples, B, K) of each version of the images (B, C, H, W)."""
        rows = images.shape[0]
        flight = IN_FLIGHT.get()
        if flight is None:
            ids = torch.arange(rows, device=images.device)
            flight = InFlight(sample_ids=ids, seed=self.seed, stream=0)
        draws = torch.cat([self._draws(images, flight, k) for k in range(self.num_samples)])
        many = images.repeat(self.num_samples, 1, 1, 1)
        logits: Tensor = self.model(self.transform(many, draws))
        return logits.reshape(self.num_samples, rows, -1)

    def _draws(self, images: Tensor, flight: InFlight, sample: int) -> Tensor:
        number = self.transform.num_draws(images.shape[1:])
        wide = torch.promote_types(images.dtype, torch.float32)
        middle = torch.full((images.shape[0], number), 0.5, dtype=wide, device=images.device)
        stream = (flight.stream * self.num_samples + sample) % (1 << 32)
        seed = flight.seed ^ _SEED
        # the largest draw rounds to 1 in lower precision
        drawn = ops.random_start(middle, flight.sample_ids, 0.5, seed, stream)
        return drawn.clamp(max=1 - 2.0**-24)
