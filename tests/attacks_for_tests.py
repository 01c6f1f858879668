"""Every attack, at settings that a test can afford."""

import dataclasses
import tempfile
from functools import cache
from pathlib import Path

import torch
from models_for_tests import mlp

from deitsec.attacks import list_attacks
from deitsec.attacks.attack import Attack
from deitsec.attacks.generator_network import GeneratorNetwork
from deitsec.attacks.perturbation_generator import PerturbationGenerator
from deitsec.attacks.registry import ATTACKS, create_attack

# one that is made for images of a shape, in a file, has tests of its own (test_universal.py); those
# that look into a transformer are held to the same on one (test_attacks_transformer.py)
EVERY = [
    name
    for name in list_attacks()
    if ATTACKS[name].traits.part == "logits"
    and "file" not in {field.name for field in dataclasses.fields(ATTACKS[name])}
]
BUDGET = [name for name in EVERY if ATTACKS[name].traits.goal == "budget"]
MINIMUM = [name for name in EVERY if ATTACKS[name].traits.goal == "minimum"]
UNTARGETED = [name for name in EVERY if ATTACKS[name].traits.untargeted]
TARGETED = [name for name in EVERY if ATTACKS[name].traits.targeted]

# fewer steps or queries than the defaults, which are for real models
_LIGHT: dict[str, dict[str, object]] = {
    "evolution": {"confidence": 0.0, "generations": 20, "population": 6},
    "evolution_cppn": {"confidence": 0.0, "generations": 20, "population": 6},
    "tifgsm": {"kernel_size": 3},  # images have 6 pixels a side
    "apgd": {"steps": 30},
    "apgd_l1": {"steps": 40},
    "apgd_l2": {"steps": 30},
    "autoattack": {"only": "apgd-ce"},
    "autoattack_l1": {"only": "apgd-ce+fab-t"},
    "autoattack_l2": {"only": "apgd-t"},
    "reliable": {"n_queries": 20},
    "reliable_l1": {"n_queries": 20},
    "reliable_l2": {"n_queries": 20},
    "square_l1": {"n_queries": 300},
    "cw": {"steps": 150, "search_steps": 5, "initial_const": 0.1, "lr": 0.02},
    "cw_linf": {"steps": 40, "initial_const": 0.01},
    "jsma": {"gamma": 0.6},
    "lbfgs": {"steps": 40, "search_steps": 8},
    "fab": {"steps": 20},
    "fab_l1": {"steps": 30},
    "fab_l2": {"steps": 20},
    "square": {"n_queries": 300},
    "square_l2": {"n_queries": 300},
    "hopskipjump": {"max_queries": 800, "start_queries": 100},
    "nes": {"steps": 15, "samples": 40},
    "spsa": {"steps": 20, "samples": 40},
    "hopskipjump_linf": {"max_queries": 800, "start_queries": 100},
    "fooling": {"confidence": 0.0, "steps": 50},
    "fooling_lookalike": {"steps": 80},
    "patch": {"num_patches": 8, "steps": 40},
}


_FOLDER = tempfile.TemporaryDirectory(prefix="deitsec-generators-")


@cache
def generator_file(shape: tuple[int, int, int], classes: int, *, aimed: bool = False) -> str:
    """A generator for such images and a model of so many classes, of any radius up to 1.

    Its perturbations follow the image, and most are at the ball's border; but for one that is to
    bring targets about in `mlp`, it was not trained.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = GeneratorNetwork(shape[0], blocks=1, classes=classes if aimed else 0)
        with torch.no_grad():
            network.leave.weight.mul_(30)
        if aimed and (shape, classes) == ((1, 6, 6), 5):
            _learn_targets(network)
    generator = PerturbationGenerator(
        network=network.requires_grad_(False).eval(),
        eps=1.0,
        shape=shape,
        num_classes=classes,
        target="any" if aimed else None,
        model={"name": "nobody", "sha256": "0" * 64},
    )
    path = Path(_FOLDER.name) / f"{'x'.join(map(str, shape))}-{classes}-{aimed}.safetensors"
    generator.save(path)
    return str(path)


def _learn_targets(network: GeneratorNetwork) -> None:
    """A few steps of the cross-entropy at random targets, within 0.5."""
    model = mlp().float().requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        images, targets = torch.rand(48, 1, 6, 6), torch.randint(5, (48,))
        moved = (images + 0.5 * network(images, targets)).clamp(0, 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(moved), targets).backward()
        optimizer.step()


def light(
    name: str,
    *,
    eps: float | None = None,
    shape: tuple[int, int, int] = (1, 6, 6),
    classes: int = 5,
    aimed: bool = False,
    **options: object,
) -> Attack:
    """An attack by name, made cheap; aimed at the next class where it has to be aimed.

    `eps` is for those that stay in a ball; an attack that looks for the nearest takes none. What is
    trained for images, classes and an aim takes the `shape` and the `classes` of the test, and
    whether targets are handed in (`aimed`).
    """
    cls = ATTACKS[name]
    fields = {field.name for field in dataclasses.fields(cls)}
    given = dict(_LIGHT.get(name, {})) | options
    if "generator" in fields:
        given.setdefault("generator", generator_file(shape, classes, aimed=aimed))
    if eps is not None and "eps" in fields and cls.traits.goal == "budget":
        given.setdefault("eps", eps)
    if not cls.traits.untargeted:
        given.setdefault("target", "next")
    return create_attack(name, **given)
