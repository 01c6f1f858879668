"""Fooling images by evolution of the networks that draw them: regular pictures."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.evolution import FIRST, HOW, WHICH, Evolving, genes
from deitsec.types import Problem, Traits

_INPUTS = 4  # x, y, distance from the middle, 1
_KINDS = 5  # sine, Gaussian, sigmoid, linear, absolute value
_LARGEST_WEIGHT = 8.0
_LARGEST_VALUE = 4.0
# how much rarer than weights connections and kinds of nodes mutate
_RARER = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Wiring:
    """A feed-forward network that holds every network of a genome, with connections that skip.

    Each node sees the inputs and all nodes of the layers before its own.

    Attributes:
        layers: hidden layers.
        width: nodes of each.
        outputs: channels of the image.
    """

    layers: int
    width: int
    outputs: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Nodes of each layer, and what each of them sees; the outputs come last."""
        hidden = [(self.width, _INPUTS + i * self.width) for i in range(self.layers)]
        return [*hidden, (self.outputs, _INPUTS + self.layers * self.width)]

    @property
    def connections(self) -> int:
        """Connections that may be there."""
        return sum(nodes * seen for nodes, seen in self.shapes)

    @property
    def nodes(self) -> int:
        """Hidden nodes and outputs."""
        return sum(nodes for nodes, _ in self.shapes)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolutionCPPN(Evolving):
    """Evolved fooling images, each drawn by a network: they come out regular.

    The indirect encoding of Nguyen et al. (arXiv:1412.1897, section 2.2): a compositional
    pattern-producing network (Stanley 2007) takes the place of a pixel and gives its value; its
    nodes are sines, Gaussians, sigmoids, linear or absolute values.

    A simplification of NEAT, which the paper grows its networks by: every genome is a choice from
    one network of `layers` of `width` nodes, of which genes switch the connections on and off, so
    that a population is evaluated as matrix products. There is no crossover and there are no
    species. Colour channels are outputs as they are, red, green and blue.

    Attributes:
        layers: hidden layers of the network.
        width: nodes of each of them.
        sparsity: share of the connections that are off in the first population.
    """

    name: ClassVar[str] = "evolution_cppn"
    traits: ClassVar[Traits] = Traits(
        norm="l2", goal="anywhere", needs="scores", untargeted=False, deterministic=False
    )

    rate: float = 0.2
    layers: int = 3
    width: int = 8
    sparsity: float = 0.5

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Evolving.__post_init__(self)
        for what in ("layers", "width"):
            if getattr(self, what) < 1:
                value = getattr(self, what)
                raise ValueError(f"{self.name}: {what} must be at least 1, got {value}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"{self.name}: sparsity must be in [0, 1), got {self.sparsity}")

    def wiring(self, like: Tensor) -> Wiring:
        """The network that draws images of the shape of `like`."""
        return Wiring(layers=self.layers, width=self.width, outputs=like.shape[1])

    def first_genomes(self, p: Problem) -> Tensor:
        """Weights from the normal distribution, connections that are on or off, kinds of nodes."""
        wiring, wide = self.wiring(p.x), torch.promote_types(p.x.dtype, torch.float32)
        size = 2 * wiring.connections + wiring.nodes
        drawn = genes(p, p.x.new_empty(len(p.x), self.population, size, dtype=wide), FIRST)
        weights, switches, kinds = _split(drawn, wiring)
        return torch.cat(
            [torch.special.ndtri(weights), (switches >= self.sparsity).to(wide), _kind(kinds)],
            2,
        ).clamp(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)

    def express(self, genome: Tensor, like: Tensor) -> Tensor:
        """Ask the networks about every place of the image."""
        wiring = self.wiring(like)
        weights, switches, kinds = _split(genome[:, None], wiring)
        active = (weights * switches)[:, 0]
        values = grid(like.shape[2], like.shape[3], genome).expand(len(genome), -1, -1)
        start, node = 0, 0
        for nodes, seen in wiring.shapes:
            matrix = active[:, start : start + nodes * seen].reshape(-1, nodes, seen)
            new = activation(matrix @ values, kinds[:, 0, node : node + nodes, None])
            values = torch.cat([values, new], 1)
            start, node = start + nodes * seen, node + nodes
        drawn = values[:, -wiring.outputs :]
        return (0.5 * drawn + 0.5).clamp(0, 1).reshape(like.shape).to(like.dtype)

    def mutate(self, p: Problem, genomes: Tensor, generation: Tensor) -> Tensor:
        """Move some weights; more rarely, switch connections and change the kinds of nodes."""
        wiring = self.wiring(p.x)
        which = _split(genes(p, genomes, WHICH, generation), wiring)
        how = _split(genes(p, genomes, HOW, generation), wiring)
        weights, switches, kinds = _split(genomes, wiring)
        moved = weights + 0.5 * torch.special.ndtri(how[0])
        moved = moved.clamp(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)
        rare = self.rate / _RARER
        return torch.cat(
            [
                torch.where(which[0] < self.rate, moved, weights),
                torch.where(which[1] < rare, 1 - switches, switches),
                torch.where(which[2] < rare, _kind(how[2]), kinds),
            ],
            2,
        )


def _split(genomes: Tensor, wiring: Wiring) -> tuple[Tensor, ...]:
    """Weights, switches and kinds of genomes (B, P, G)."""
    return genomes.split([wiring.connections, wiring.connections, wiring.nodes], 2)


def _kind(drawn: Tensor) -> Tensor:
    """A kind of node, 0 to 4, from a uniform draw."""
    return (drawn * _KINDS).floor()


def grid(height: int, width: int, like: Tensor) -> Tensor:
    """(4, H * W) the inputs at every place: x and y from -1 to 1, their distance from 0, and 1."""
    y, x = (
        (torch.arange(side, device=like.device, dtype=like.dtype) * 2 + 1) / side - 1
        for side in (height, width)
    )
    x, y = x.expand(height, -1).flatten(), y[:, None].expand(-1, width).flatten()
    return torch.stack([x, y, (x * x + y * y).sqrt(), torch.ones_like(x)])


def activation(v: Tensor, kinds: Tensor) -> Tensor:
    """What nodes of some kinds give for the sums that they see.

    Sine and Gaussian, sigmoid and linear, and the absolute value, all but the Gaussian between -1
    and 1 or, where they have no bounds, cut at 4: a chain of them would otherwise overflow.
    """
    linear = v.clamp(-_LARGEST_VALUE, _LARGEST_VALUE)
    given = torch.where(kinds == 1, (-v * v).exp(), torch.sin(v))
    given = torch.where(kinds == 2, 2 * torch.sigmoid(v) - 1, given)
    given = torch.where(kinds == 3, linear, given)
    return torch.where(kinds == 4, linear.abs(), given)
