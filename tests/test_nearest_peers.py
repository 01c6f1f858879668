"""C&W, DDN and FMN beside foolbox's at equal steps, where it is installed, on the digits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deitsec.attacks import create_attack
from deitsec.engine import Engine

foolbox: Any = pytest.importorskip("foolbox")
datasets: Any = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def subject() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network of the digits, and 100 images that it knows."""
    torch.manual_seed(0)
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        batch = torch.randint(0, 1200, (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        known = (model(images).argmax(1) == labels).nonzero()[:, 0]
    chosen = known[known >= 1200][:100]
    return model, images[chosen], labels[chosen]


def peers(name: str) -> tuple[Any, Any]:
    """Ours and foolbox's, with the same options."""
    fb = foolbox.attacks
    if name == "cw":
        theirs = fb.L2CarliniWagnerAttack(
            binary_search_steps=6, steps=100, stepsize=1e-2, initial_const=1e-3
        )
        return create_attack("cw", search_steps=6, steps=100), theirs
    if name == "ddn":
        return create_attack("ddn", steps=60), fb.DDNAttack(steps=60)
    classes = {"fmn": "L2", "fmn_linf": "LInf", "fmn_l1": "L1", "fmn_l0": "L0"}
    return create_attack(name, steps=60), getattr(fb, classes[name] + "FMNAttack")(steps=60)


@pytest.mark.parametrize("name", ["cw", "ddn", "fmn", "fmn_linf", "fmn_l1", "fmn_l0"])
def test_no_peer_comes_nearer_or_breaks_more(
    name: str, subject: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, images, labels = subject
    attack, theirs = peers(name)
    order = {"l2": 2, "linf": torch.inf, "l1": 1, "l0": 0}[attack.traits.norm]
    ours = Engine(model).run(attack, images, labels)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    adv = theirs(wrapped, images, labels, epsilons=None)[0]
    with torch.no_grad():
        fell = model(adv).argmax(1) != labels
    fell &= (adv != 0).flatten(1).any(1)  # what foolbox's C&W gives where it failed
    assert ours.success.float().mean() >= fell.float().mean() - 0.01
    far = torch.linalg.vector_norm((adv - images).flatten(1), order, dim=1)
    far = torch.where(fell, far, torch.inf).median()
    near = torch.where(ours.success, ours.distance(attack.traits.norm), torch.inf).median()
    print(f"{name}: {near:.4f}, foolbox {far:.4f}; {ours.success.sum()}, {fell.sum()} of 100")
    assert near <= 1.02 * far
