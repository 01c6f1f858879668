"""Dropout at test time: another random part of the network answers each time."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from deitsec import ops
from deitsec.types import IN_FLIGHT, InFlight

# keeps these draws apart from the starts of attacks, which have the seed itself
_SEED = 0x44_52_4F_50
_LAYERS = 64  # a stream holds the draws of as many layers

Network = TypeVar("Network", bound=nn.Module)


class SampledDropout(nn.Module):
    """Dropout that is on in eval mode too, by draws that belong to the sample.

    In train mode it is PyTorch's.

    Args:
        rate: share of the values that become 0, in [0, 1); the others grow by 1 / (1 - rate).
        layer: tells its draws from those of other layers.
    """

    def __init__(self, rate: float, layer: int = 0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate}")
        self.rate = rate
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        """Drop values of features (B, ...)."""
        if self.training:
            return functional.dropout(features, self.rate)
        flight = _flight(features, 0)
        wide = torch.promote_types(features.dtype, torch.float32)
        middle = torch.full_like(features.flatten(1), 0.5, dtype=wide).contiguous()
        stream = (flight.stream * _LAYERS + self.layer) % (1 << 32)
        drawn = ops.random_start(middle, flight.sample_ids, 0.5, flight.seed ^ _SEED, stream)
        kept = (drawn >= self.rate).to(features.dtype).reshape(features.shape)
        return features * kept / (1 - self.rate)


class RandomDropout(nn.Module):
    """A network that keeps its dropout on when it is asked.

    With `num_samples` it is what an attacker who knows of it follows: the mean over masks
    (expectation over transformation, Athalye et al., arXiv:1802.00420, section 4.2). Within an
    engine the masks belong to the sample, as in `deitsec.models.EOT`, and a success counts only
    where masks that the attack has not seen confirm it.

    Args:
        model: (B, C, H, W) images in [0, 1] -> (B, K) logits; copied, and its dropout made to stay
            on (`with_sampled_dropout`).
        rate: where the model has no dropout of its own.
        num_samples: masks of each image, at least 1.
        seed: of the draws outside an engine.

    Raises:
        ValueError: rate or num_samples out of range, or a model without a linear layer to drop
            the inputs of.
    """

    stochastic = True

    def __init__(
        self, model: nn.Module, *, rate: float = 0.5, num_samples: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        self.model = with_sampled_dropout(model, rate)
        self.num_samples = num_samples
        self.seed = seed
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean logits (B, K) over masks, of images (B, C, H, W) in [0, 1]."""
        flight = _flight(images, self.seed)
        logits: list[Tensor] = []
        for sample in range(self.num_samples):
            stream = flight.stream * self.num_samples + sample
            ours = InFlight(sample_ids=flight.sample_ids, seed=flight.seed, stream=stream)
            token = IN_FLIGHT.set(ours)
            try:
                logits.append(self.model(images))
            finally:
                IN_FLIGHT.reset(token)
        return torch.stack(logits).mean(0)


def with_sampled_dropout(model: Network, rate: float) -> Network:
    """Copy a network with its dropout layers made to stay on, at their own rates.

    One without such layers gets one before its last linear layer.

    Raises:
        ValueError: it has neither.
    """
    network = copy.deepcopy(model)
    if any(isinstance(part, SampledDropout) for part in network.modules()):
        return network
    dropouts = [name for name, part in network.named_modules() if isinstance(part, nn.Dropout)]
    for layer, name in enumerate(dropouts):
        part = network.get_submodule(name)
        assert isinstance(part, nn.Dropout)
        _replace(network, name, SampledDropout(part.p, layer))
    if not dropouts:
        linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise ValueError(
                "dropout at test time needs a network with a dropout or a linear layer, got none"
            )
        last = network.get_submodule(linear[-1])
        _replace(network, linear[-1], nn.Sequential(SampledDropout(rate), last))
    return network.train(model.training)


def _replace(network: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, key = name.rpartition(".")
    setattr(network.get_submodule(parent), key, part)


def _flight(images: Tensor, seed: int) -> InFlight:
    """Whose rows they are; outside of an engine row i is sample i."""
    flight = IN_FLIGHT.get()
    if flight is None:
        ids = torch.arange(images.shape[0], device=images.device)
        return InFlight(sample_ids=ids, seed=seed, stream=0)
    return flight
