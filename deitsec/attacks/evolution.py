"""Fooling images by evolution, which needs a model's scores only."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deitsec.attacks.attack import Attack
from deitsec.attacks.draws import uniform
from deitsec.types import Plan, Problem, Query, State, Traits

# streams of the draws: what an encoding draws for itself comes after these
_PARENTS, FIRST, WHICH, HOW = 2, 3, 4, 5


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolutionState(State):
    """State with a population of each row.

    Attributes:
        genomes: (B, P, G) the population, the fittest first.
        fitness: (B, P) log softmax of the row's class, at least fp32; -inf before it is known.
        generation: (B,) int64 generations that the row has had.
    """

    genomes: Tensor
    fitness: Tensor
    generation: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolving(Attack):
    """Base of the evolutionary algorithms, which differ in how a genome encodes an image.

    Each row breeds a population for its own class: parents are picked by tournaments of two, their
    children mutate, and the fittest of both are the next generation, so that the best fitness
    never falls. The fitness is the softmax of the class. Nguyen et al. breed for all classes
    side by side and let champions of one class take over another (MAP-Elites); here no row knows
    another.

    Attributes:
        confidence: softmax of the target that counts as fooled.
        generations: number of generations; each asks the model about as many images as there are.
        population: genomes of a row.
        rate: share of the genes that mutate.
        restarts: how often a row is tried, each time with another population.
    """

    target: str | int | None = "next"
    confidence: float = 0.99
    generations: int = 200
    population: int = 16
    rate: float = 0.1
    restarts: int = 1

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Attack.__post_init__(self)
        for what, least in (("generations", 1), ("population", 2), ("restarts", 1)):
            value = getattr(self, what)
            if value < least:
                raise ValueError(f"{self.name}: {what} must be at least {least}, got {value}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"{self.name}: rate must be in (0, 1], got {self.rate}")

    @property
    def num_restarts(self) -> int:
        """How often a row is tried at each of its targets."""
        return self.restarts

    @abstractmethod
    def first_genomes(self, p: Problem) -> Tensor:
        """(B, P, G) the population that evolution begins with, at least fp32."""

    @abstractmethod
    def express(self, genome: Tensor, like: Tensor) -> Tensor:
        """(B, C, H, W) what genomes (B, G) stand for: images in [0, 1], shaped as `like`."""

    @abstractmethod
    def mutate(self, p: Problem, genomes: Tensor, generation: Tensor) -> Tensor:
        """(B, P, G) mutated copies of genomes, in the generation (B,) of each row."""

    def init(self, p: Problem) -> EvolutionState:
        """Draw the first population."""
        genomes = self.first_genomes(p)
        return EvolutionState(
            x=self.express(genomes[:, 0], p.x),
            genomes=genomes,
            fitness=torch.full_like(genomes[:, :, 0], -torch.inf),
            generation=torch.zeros_like(p.y),
        )

    def plan(self) -> Plan:
        """Return the look at the first population, and the generations."""
        return [(self.judge, 1), (self.breed, self.generations)]

    def judge(self, p: Problem, s: EvolutionState, query: Query) -> EvolutionState:
        """Ask the model about the first population."""
        return self._select(p, s, s.genomes, self._fitness(p, s.genomes, query))

    def breed(self, p: Problem, s: EvolutionState, query: Query) -> EvolutionState:
        """Breed a generation, and keep the fittest of it and of the one before."""
        children = self.mutate(p, _pick(s.genomes, self._parents(p, s)), s.generation)
        fitness = self._fitness(p, children, query)
        everyone = torch.cat([s.genomes, children], 1)
        return self._select(p, s, everyone, torch.cat([s.fitness, fitness], 1))

    def _fitness(self, p: Problem, genomes: Tensor, query: Query) -> Tensor:
        """(B, P) log softmax of each row's class, which tells apart what softmax calls 0."""
        told: list[Tensor] = []
        for number in range(genomes.shape[1]):
            logits = query.logits(self.express(genomes[:, number], p.x))
            told.append(logits.log_softmax(1).gather(1, p.y[:, None]))
        fitness = torch.cat(told, 1).to(genomes.dtype)
        return torch.where(fitness.isnan(), -torch.inf, fitness)

    def _parents(self, p: Problem, s: EvolutionState) -> Tensor:
        """(B, P) places of the winners of tournaments of two; the fittest come first."""
        rows, number = s.fitness.shape
        drawn = uniform(p, s.fitness.new_zeros(rows, 2 * number), _PARENTS, s.generation)
        places = (drawn * number).long().clamp(max=number - 1)
        return torch.minimum(places[:, :number], places[:, number:])

    def _select(
        self, p: Problem, s: EvolutionState, genomes: Tensor, fitness: Tensor
    ) -> EvolutionState:
        """The fittest of some genomes; of two alike, the one that comes first."""
        order = fitness.sort(dim=1, descending=True, stable=True).indices[:, : self.population]
        chosen = _pick(genomes, order)
        return s.replace(
            x=self.express(chosen[:, 0], p.x),
            genomes=chosen,
            fitness=fitness.gather(1, order),
            generation=s.generation + 1,
        )


def _pick(genomes: Tensor, places: Tensor) -> Tensor:
    """(B, Q, G) the genomes of each row at its places (B, Q)."""
    return genomes.gather(1, places[:, :, None].expand(-1, -1, genomes.shape[2]))


def genes(p: Problem, genomes: Tensor, stream: int, generation: Tensor | None = None) -> Tensor:
    """Draws in (0, 1), one for each gene of genomes (B, P, G)."""
    return uniform(p, genomes, stream, generation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolution(Evolving):
    """Evolved fooling images, a gene for each value of the image: they come out as static.

    The direct encoding of Nguyen et al. (arXiv:1412.1897, section 2.2): uniform noise to begin
    with, and polynomial mutation (Deb and Agrawal 1995) of a tenth of the values, a share that is
    halved as time goes on.

    Attributes:
        halving: generations after which the rate is halved, again and again.
        strength: exponent of the polynomial mutation; the larger, the smaller the changes.
    """

    name: ClassVar[str] = "evolution"
    traits: ClassVar[Traits] = Traits(
        norm="l2", goal="anywhere", needs="scores", untargeted=False, deterministic=False
    )

    generations: int = 1000
    halving: int = 1000
    strength: float = 15.0

    def __post_init__(self) -> None:
        """Validate the configuration."""
        Evolving.__post_init__(self)
        if self.halving < 1:
            raise ValueError(f"{self.name}: halving must be at least 1, got {self.halving}")
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"{self.name}: strength must be >= 0, got {self.strength}")

    def first_genomes(self, p: Problem) -> Tensor:
        """Uniform noise."""
        wide = torch.promote_types(p.x.dtype, torch.float32)
        rows, values = p.x.shape[0], p.x.shape[1:].numel()
        return genes(p, p.x.new_empty(rows, self.population, values, dtype=wide), FIRST)

    def express(self, genome: Tensor, like: Tensor) -> Tensor:
        """The genes are the values."""
        return genome.reshape(like.shape).to(like.dtype)

    def mutate(self, p: Problem, genomes: Tensor, generation: Tensor) -> Tensor:
        """Change some of the values, most of them by little."""
        halvings = torch.div(generation, self.halving, rounding_mode="floor")
        rate = (self.rate * 0.5 ** halvings.to(genomes.dtype))[:, None, None]
        chosen = genes(p, genomes, WHICH, generation) < rate
        change = polynomial(genes(p, genomes, HOW, generation), self.strength)
        return torch.where(chosen, (genomes + change).clamp(0, 1), genomes)


def polynomial(drawn: Tensor, strength: float) -> Tensor:
    """Changes in (-1, 1) from uniform draws: density (strength + 1) / 2 * (1 - |d|)**strength."""
    power = 1 / (strength + 1)
    return torch.where(drawn < 0.5, (2 * drawn) ** power - 1, 1 - (2 * (1 - drawn)) ** power)
