"""AutoAttack on MNIST: the authors' code and the cheaper evaluation come to the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deitsec.attacks import create_attack
from deitsec.engine import Engine, run

MNIST = Path(__file__).parents[1] / ".." / "shared" / "data" / "mnist.npz"
ROWS = 48

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MNIST.exists(), reason=f"needs MNIST at {MNIST}"),
]


def small_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 49, 10),
    )


def trained(eps):
    """One pass over 6,000 digits, at their worst points in the ball where eps is given."""
    torch.manual_seed(0)
    with np.load(MNIST) as data:
        images = torch.from_numpy(data["x_train"][:6000]).float()[:, None] / 255
        labels = torch.from_numpy(data["y_train"][:6000]).long()
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    loss_of = nn.functional.cross_entropy
    for rows in torch.arange(len(images)).split(64):
        x, y = images[rows], labels[rows]
        adv = x.clone()
        for _ in range(4 if eps else 0):
            adv.requires_grad_()
            (grad,) = torch.autograd.grad(loss_of(model(adv), y), adv)
            adv = (adv.detach() + eps / 2 * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        optimizer.zero_grad()
        loss_of(model(adv), y).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def digits():
    with np.load(MNIST) as data:
        images = torch.from_numpy(data["x_test"][:ROWS]).float()[:, None] / 255
        return images, torch.from_numpy(data["y_test"][:ROWS]).long()


@pytest.mark.parametrize(("train_eps", "eps"), [(0.0, 0.08), (0.1, 0.1)])
def test_the_cheaper_evaluation_agrees_at_a_sixth_of_the_cost(train_eps, eps):
    model = trained(train_eps)
    whole, short = (
        Engine(model, batch_size=ROWS).run(create_attack(name, eps=eps), *digits())
        for name in ("autoattack", "reliable")
    )
    assert 0 < whole.robust_accuracy < 1
    assert torch.equal(whole.success, short.success)
    assert 6 * short.queries.forward.sum() <= whole.queries.forward.sum()


@pytest.mark.parametrize(("train_eps", "eps"), [(0.0, 0.08), (0.1, 0.1)])
def test_robust_accuracy_is_that_of_the_authors_protocol(train_eps, eps):
    theirs = pytest.importorskip("pyautoattack.autoattack")
    model, (images, labels) = trained(train_eps), digits()
    attack = theirs.AutoAttack(model, eps=eps, seed=0, device="cpu")
    adv = attack.run_standard_evaluation(images, labels, batch_size=ROWS)
    adv = adv if isinstance(adv, torch.Tensor) else adv[0]
    robust = (model(adv).argmax(1) == labels).double().mean().item()
    ours = run(create_attack("autoattack", eps=eps), model, images, labels)
    assert ours.robust_accuracy == pytest.approx(robust, abs=0.002)
