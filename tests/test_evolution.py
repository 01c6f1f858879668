"""Evolved fooling images."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from fooling_for_tests import digits_network
from models_for_tests import problem

from deitsec.attacks.evolution import Evolution, polynomial
from deitsec.attacks.evolution_cppn import EvolutionCPPN, activation, grid
from deitsec.engine import Engine, fooling_images

KINDS = [Evolution, EvolutionCPPN]
ELITES = [partial(kind, map_elites=True) for kind in KINDS]


class Watching:
    """Answers by a model, and remembers what it was asked about."""

    def __init__(self, model):
        self.model, self.asked = model, []

    def logits(self, x):
        self.asked.append(x)
        with torch.no_grad():
            return self.model(x)


def _run(attack, p, query):
    states = [attack.init(p)]
    for step, times in attack.plan():
        for _ in range(times):
            states.append(step(p, states[-1], query))
    return states


def _row(rows=6, size=(1, 8, 8)):
    targets = torch.arange(rows) % 10
    return problem(torch.full((rows, *size), 0.5), targets, targeted=True)


@pytest.mark.parametrize("kind", KINDS)
def test_fitness_never_falls_and_is_that_of_the_image(kind):
    model, p = digits_network(), _row()
    attack = kind(generations=15, population=5)
    states = _run(attack, p, query := Watching(model))
    best = torch.stack([state.fitness[:, 0] for state in states[1:]])
    assert (best.diff(dim=0) >= 0).all()
    assert (best[-1] > best[0]).all()
    for state in states[1:]:
        with torch.no_grad():
            told = model(state.x).log_softmax(1).gather(1, p.y[:, None])[:, 0]
        torch.testing.assert_close(state.fitness[:, 0], told, rtol=1e-5, atol=1e-5)
        assert (state.fitness.diff(dim=1) <= 0).all()
        assert state.fitness.isfinite().all()
    assert len(query.asked) == 5 * 16
    for x in query.asked:
        assert x.shape == p.x.shape
        assert ((x >= 0) & (x <= 1)).all()
    assert torch.equal(states[-1].generation, torch.full((6,), 16))


@pytest.mark.parametrize("kind", ELITES)
def test_map_elites_keeps_the_fittest_of_all_children_for_every_class(kind):
    """One generation after the other, by a plain loop over classes and children."""
    model, p = digits_network(), _row(rows=3)
    attack = kind(generations=6, population=5)
    states = _run(attack, p, query := Watching(model))
    with torch.no_grad():
        asked = [model(x).log_softmax(1) for x in query.asked]
    for row in range(3):
        best = dict.fromkeys(range(10), (-math.inf, None))
        for generation, state in enumerate(states[1:]):
            for child in range(5 * generation, 5 * generation + 5):
                for label in range(10):
                    fitness = asked[child][row, label].item()
                    if fitness > best[label][0]:
                        best[label] = (fitness, query.asked[child][row])
            champions = attack.express(state.genomes[row], p.x[:1].expand(10, -1, -1, -1))
            for label, (fitness, image) in best.items():
                assert state.fitness[row, label].item() == pytest.approx(fitness, abs=1e-6)
                torch.testing.assert_close(champions[label], image, rtol=0, atol=1e-6)
            torch.testing.assert_close(state.x[row], champions[p.y[row]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ELITES)
def test_map_elites_draws_its_parents_from_the_champions_of_all_classes(kind):
    p = _row(rows=2)
    attack = kind(population=4000)
    state = attack.init(p).replace(fitness=torch.zeros(2, 10))
    parents = attack._parents(p, state)
    assert parents.shape == (2, 4000)
    for row in parents:
        counts = row.bincount(minlength=10)
        assert len(counts) == 10
        assert (counts - 400).abs().max() < 5 * math.sqrt(4000 * 0.1 * 0.9)


def test_a_child_of_one_class_takes_over_another():
    """A child that was bred from the champion of one class is the next champion of another."""
    model, p = digits_network(), _row(rows=10)
    attack = EvolutionCPPN(generations=40, population=4, map_elites=True)
    states = _run(attack, p, Watching(model))[1:]
    crossed = 0
    for before, after in pairwise(states):
        parents = attack._parents(p, before)
        children = attack.mutate(
            p, before.genomes.gather(1, _wide(parents, before)), before.generation
        )
        same = (children[:, :, None] == after.genomes[:, None]).all(3)  # (B, P, K)
        crossed += int((same & (parents[:, :, None] != torch.arange(10))).sum())
    assert crossed > 0


def _wide(places, state):
    return places[:, :, None].expand(-1, -1, state.genomes.shape[2])


@pytest.mark.parametrize("kind", [*KINDS, *ELITES])
def test_rows_evolve_by_themselves(kind):
    model, p = digits_network(), _row()
    attack = kind(generations=6, population=4)
    whole = _run(attack, p, Watching(model))[-1]
    order = torch.tensor([4, 1])
    some = problem(p.x[order], p.y[order], targeted=True, sample_ids=p.sample_ids[order])
    part = _run(attack, some, Watching(model))[-1]
    torch.testing.assert_close(part.x, whole.x[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(part.fitness, whole.fitness[order], rtol=1e-4, atol=1e-5)


def test_cppns_fool_the_network_of_every_digit():
    result = fooling_images(digits_network(), image_shape=(1, 8, 8), attack=EvolutionCPPN())
    sure = result.logits.softmax(1).gather(1, result.targets[:, None])[:, 0]
    assert result.success.all()
    assert (sure >= 0.99).all()
    assert (result.queries.backward == 0).all()


def test_direct_encoding_fools_the_network_of_most_digits():
    attack = Evolution(generations=400)
    result = fooling_images(digits_network(), image_shape=(1, 8, 8), attack=attack)
    assert result.success.float().mean() >= 0.8


def test_networks_draw_smooth_pictures_and_genes_a_value_do_not():
    """The difference of neighbours against that of values far apart."""
    roughness = []
    for kind in KINDS:
        x = kind(population=2).init(_row(rows=40, size=(1, 28, 28))).x
        x = x[x.flatten(1).std(1) > 0.02]  # some networks draw one grey
        near = (x - x.roll(1, 3))[:, :, :, 1:].square().flatten(1).mean(1)
        roughness.append((near / (2 * x.flatten(1).var(1))).median())
    assert roughness[0] == pytest.approx(1, abs=0.1)  # white noise
    assert roughness[1] < 0.15


def test_polynomial_mutation_has_the_moments_of_its_density():
    drawn = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for strength in (0.0, 5.0, 15.0):
        change = polynomial(drawn, strength)
        assert change.mean() == pytest.approx(0, abs=1e-6)
        variance = 2 / ((strength + 2) * (strength + 3))
        assert change.square().mean() == pytest.approx(variance, rel=1e-3)
        assert change.abs().max() < 1


def test_a_tenth_of_the_values_mutates_and_half_of_that_later():
    attack = Evolution(population=64, halving=10)
    p = _row(rows=3, size=(1, 28, 28))
    genomes = attack.first_genomes(p)
    generation = torch.tensor([0, 10, 25])
    changed = (attack.mutate(p, genomes, generation) != genomes).float().mean((1, 2))
    torch.testing.assert_close(changed, torch.tensor([0.1, 0.05, 0.025]), rtol=0.1, atol=0)


def test_a_network_is_evaluated_as_it_is_written():
    """One hidden node and one output, by hand at every place."""
    attack = EvolutionCPPN(layers=1, width=1)
    like = torch.zeros(5, 1, 3, 4, dtype=torch.float64)
    weights = torch.tensor([2.0, -1.0, 0.5, 0.3, 9.0, 1.0, 9.0, -0.2, 1.5], dtype=torch.float64)
    switches = torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 1, 1], dtype=torch.float64)
    wave = [
        math.sin,
        lambda v: math.exp(-v * v),
        lambda v: math.tanh(v / 2),
        lambda v: min(4.0, max(-4.0, v)),
        abs,
    ]
    kinds = torch.stack([torch.arange(5.0), (torch.arange(5.0) + 1) % 5], 1).double()
    genome = torch.cat([torch.cat([weights, switches]).expand(5, -1), kinds], 1)
    drawn = attack.express(genome, like)
    for row, (hidden, out) in enumerate(kinds.long().tolist()):
        for i in range(3):
            for j in range(4):
                y, x = (2 * i + 1) / 3 - 1, (2 * j + 1) / 4 - 1
                h = wave[hidden](2 * x - y + 0.5 * math.hypot(x, y) + 0.3)
                value = wave[out](y - 0.2 + 1.5 * h)
                expected = min(1.0, max(0.0, 0.5 * value + 0.5))
                assert drawn[row, 0, i, j] == pytest.approx(expected, abs=1e-12)


def test_inputs_are_symmetric_and_activations_bounded():
    values = grid(5, 4, torch.zeros(()))
    torch.testing.assert_close(values[:2].sum(1), torch.zeros(2), rtol=0, atol=1e-6)
    huge = torch.tensor([-1e30, 1e30])
    for kind in range(5):
        given = activation(huge, torch.tensor(float(kind)))
        assert (given.abs() <= 4).all()


def test_mutation_of_networks_keeps_genes_what_they_are():
    attack = EvolutionCPPN(population=6, rate=1.0)
    p = _row(rows=4)
    wiring = attack.wiring(p.x)
    genomes = attack.first_genomes(p)
    assert genomes.shape == (4, 6, 2 * wiring.connections + wiring.nodes)
    for step in range(3):
        genomes = attack.mutate(p, genomes, torch.full((4,), step))
    switches = genomes[:, :, wiring.connections : 2 * wiring.connections]
    kinds = genomes[:, :, 2 * wiring.connections :]
    assert switches.unique().tolist() == [0, 1]
    assert kinds.unique().tolist() == [0, 1, 2, 3, 4]
    assert genomes.abs().max() <= 8


@pytest.mark.parametrize("kind", [*KINDS, *ELITES])
def test_colour_images_and_another_seed(kind):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(105, 3))
    attack = kind(generations=5, population=4, confidence=0.0)
    first, again, other = (
        fooling_images(model, image_shape=(3, 5, 7), attack=attack, seed=seed) for seed in (0, 0, 1)
    )
    assert first.adv.shape == (3, 3, 5, 7)
    assert torch.equal(first.adv, again.adv)
    assert not torch.equal(first.adv, other.adv)


@pytest.mark.parametrize("kind", [*KINDS, *ELITES])
def test_a_model_that_says_nan_to_some_images_is_survived(kind):
    network = digits_network()

    class Broken(torch.nn.Module):
        def forward(self, x):
            bad = x.flatten(1).mean(1) > 0.52
            return torch.where(bad[:, None], torch.nan, network(x))

    attack = kind(generations=5, population=4)
    grey = torch.full((10, 1, 8, 8), 0.2)
    result = Engine(Broken()).run(attack, grey, torch.arange(10))
    assert result.adv.isfinite().all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Evolution(population=1), "population must be at least 2, got 1"),
        (lambda: Evolution(generations=0), "generations must be at least 1, got 0"),
        (lambda: Evolution(rate=0.0), r"rate must be in \(0, 1\], got 0.0"),
        (lambda: Evolution(halving=0), "halving must be at least 1, got 0"),
        (lambda: Evolution(strength=-1.0), "strength must be >= 0, got -1.0"),
        (lambda: EvolutionCPPN(layers=0), "layers must be at least 1, got 0"),
        (lambda: EvolutionCPPN(sparsity=1.0), r"sparsity must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
