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
    """State with the genomes that each row breeds from.

    Attributes:
        genomes: (B, P, G) the population, the fittest first; by MAP-Elites (B, K, G), from the
            first generation on: the champion of each class.
        fitness: (B, P) log softmax of the row's class, by MAP-Elites (B, K) of each champion's
            class; at least fp32, -inf before it is known.
        generation: (B,) int64 generations that the row has had.
    """

    genomes: Tensor
    fitness: Tensor
    generation: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolving(Attack):
    """Base of the evolutionary algorithms, which differ in how a genome encodes an image.

    The fitness of a genome for a class is the softmax of the class, which never falls for the best.

    A row breeds a population for its own class: parents are picked by tournaments of two, their
    children mutate, and the fittest of both are the next generation. By MAP-Elites (Mouret and
    Clune, arXiv:1504.04909), as Nguyen et al. do it, a row keeps a champion of every class: parents
    are champions drawn at random, and a child takes over each class that it is fitter for, so that
    what does well for one class can go on from there for another. Each row then breeds for all
    classes, and its answer is the champion of its own; it holds as many genomes as the model has
    classes.

    Attributes:
        confidence: softmax of the target that counts as fooled.
        generations: number of generations; each asks the model about `population` images.
        population: genomes of a row at first, and children of each generation.
        map_elites: whether a row keeps a champion of every class.
        rate: share of the genes that mutate.
        restarts: how often a row is tried, each time with another population.
    """

    target: str | int | None = "next"
    confidence: float = 0.99
    generations: int = 200
    population: int = 16
    map_elites: bool = False
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
        told = self._told(p, s.genomes, query)
        if self.map_elites:
            return self._follow(p, s, *_champions(s.genomes, told))
        return self._follow(p, s, *self._fittest(s.genomes, _own(told, p.y)))

    def breed(self, p: Problem, s: EvolutionState, query: Query) -> EvolutionState:
        """Breed a generation, and keep the fittest of it and of those before."""
        children = self.mutate(p, _pick(s.genomes, self._parents(p, s)), s.generation)
        told = self._told(p, children, query)
        if self.map_elites:
            genomes, fitness = _champions(children, told)
            fitter = fitness > s.fitness
            genomes = torch.where(fitter[:, :, None], genomes, s.genomes)
            return self._follow(p, s, genomes, torch.where(fitter, fitness, s.fitness))
        everyone = torch.cat([s.genomes, children], 1)
        fitness = torch.cat([s.fitness, _own(told, p.y)], 1)
        return self._follow(p, s, *self._fittest(everyone, fitness))

    def _told(self, p: Problem, genomes: Tensor, query: Query) -> Tensor:
        """(B, P, K) log softmax, which tells apart what softmax calls 0."""
        told = [
            query.logits(self.express(genomes[:, number], p.x)).log_softmax(1)
            for number in range(genomes.shape[1])
        ]
        fitness = torch.stack(told, 1).to(genomes.dtype)
        return torch.where(fitness.isnan(), -torch.inf, fitness)

    def _parents(self, p: Problem, s: EvolutionState) -> Tensor:
        """(B, P) places of the parents: champions, or winners of tournaments of two."""
        rows, kept = s.fitness.shape
        number = self.population
        drawn = uniform(p, s.fitness.new_zeros(rows, 2 * number), _PARENTS, s.generation)
        places = (drawn * kept).long().clamp(max=kept - 1)
        if self.map_elites:
            return places[:, :number]
        return torch.minimum(places[:, :number], places[:, number:])  # the fittest come first

    def _fittest(self, genomes: Tensor, fitness: Tensor) -> tuple[Tensor, Tensor]:
        """The fittest of some genomes; of two alike, the one that comes first."""
        order = fitness.sort(dim=1, descending=True, stable=True).indices[:, : self.population]
        return _pick(genomes, order), fitness.gather(1, order)

    def _follow(
        self, p: Problem, s: EvolutionState, genomes: Tensor, fitness: Tensor
    ) -> EvolutionState:
        """The state that a generation leaves; its image is of the row's class."""
        best = p.y if self.map_elites else torch.zeros_like(p.y)
        return s.replace(
            x=self.express(_pick(genomes, best[:, None])[:, 0], p.x),
            genomes=genomes,
            fitness=fitness,
            generation=s.generation + 1,
        )


def _own(told: Tensor, y: Tensor) -> Tensor:
    """(B, P) what is told (B, P, K) of each row's class."""
    return told.gather(2, y[:, None, None].expand(-1, told.shape[1], 1))[:, :, 0]


def _champions(genomes: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, G) the fittest of genomes (B, P, G) for each class, and (B, K) how fit; first wins."""
    fitness, places = told.max(1)
    return _pick(genomes, places), fitness


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
