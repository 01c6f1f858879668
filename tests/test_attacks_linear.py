"""The closed form against solvers that know nothing of it."""

import numpy as np
import pytest
import torch
from torch import nn

from deitsec.attacks import create_attack
from deitsec.engine import run

optimize = pytest.importorskip("scipy.optimize")
NAMES = {"linf": "linear", "l2": "linear_l2", "l1": "linear_l1"}


def _model(classes, seed=0, pixels=12):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    images = torch.rand(8, 1, 3, 4, dtype=torch.float64)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 1  # pixels that can go one way only
    with torch.no_grad():
        return model.eval(), images, model(images).argmax(1)


def _optimum(w, gap, x, norm):
    """Least norm of d with w d >= gap and x + d in the box, by a solver; inf if there is none."""
    n = len(w)
    low, high = -x, 1 - x
    if np.where(w > 0, w * high, w * low).sum() < gap:
        return np.inf
    if norm == "l2":
        start = np.where(w > 0, high, low)
        found = optimize.minimize(
            lambda d: d @ d,
            start,
            jac=lambda d: 2 * d,
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "ineq", "fun": lambda d: w @ d - gap, "jac": lambda d: w},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return np.sqrt(found.fun)
    # d = a - b with magnitudes bounded by t (L-infinity) or summed (L1)
    more = 1 if norm == "linf" else 0
    cost = np.concatenate([np.zeros(2 * n), [1]]) if more else np.ones(2 * n)
    rows = [np.concatenate([-w, w, np.zeros(more)])]
    bounds = [-gap]
    for i in range(n if more else 0):
        row = np.zeros(2 * n + 1)
        row[i], row[n + i], row[-1] = 1, 1, -1
        rows.append(row)
        bounds.append(0)
    limits = [(0, h) for h in high] + [(0, -v) for v in low] + [(0, None)] * more
    return optimize.linprog(cost, A_ub=np.array(rows), b_ub=np.array(bounds), bounds=limits).fun


@pytest.mark.parametrize("norm", NAMES)
@pytest.mark.parametrize("classes", [2, 5])
def test_it_is_the_optimum_that_a_solver_finds(norm, classes):
    model, images, labels = _model(classes)
    with torch.no_grad():
        weight, bias = model[1].weight.numpy(), model[1].bias.numpy()
    result = run(create_attack(NAMES[norm]), model, images, labels)
    distances = result.distance(norm)
    for row, label in enumerate(labels.tolist()):
        x = images[row].flatten().numpy()
        logits = weight @ x + bias
        best = min(
            _optimum(weight[j] - weight[label], logits[label] - logits[j], x, norm)
            for j in range(classes)
            if j != label
        )
        assert result.success[row] == (best < np.inf)
        if best < np.inf:
            assert distances[row].item() == pytest.approx(best, rel=2e-6)
    assert result.success.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES.values())
def test_rounding_is_overcome(name, dtype):
    model, images, _ = _model(4, seed=3)
    model = model.to(torch.float32)
    images = images.to(dtype)

    class Wide(nn.Module):
        def forward(self, x):
            return model(x.float())

    labels = model(images.float()).argmax(1)
    result = run(create_attack(name), Wide(), images, labels)
    exact = run(create_attack(name), model, images.float(), labels)
    assert exact.success.all()
    if dtype is torch.float32:
        assert result.success.all()
    else:
        assert result.success.double().mean() >= 0.5


def test_a_row_that_the_box_does_not_let_fall_is_a_failure():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]))
        model[1].bias.copy_(torch.tensor([1.0, -1.0]))
    images = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    result = run(create_attack("linear"), model, images, torch.zeros(2, dtype=torch.int64))
    assert not result.success.any()
    assert (result.adv == 0).all()  # its best attempt


@pytest.mark.parametrize("name", NAMES.values())
def test_gradients_are_asked_for_once(name):
    model, images, labels = _model(5)
    with torch.no_grad():
        model[1].bias[0] += 100  # no row falls, and all ways beyond the border are tried
    result = run(create_attack(name), model, images, torch.zeros_like(labels))
    assert not result.success.any()
    assert (result.queries.backward == 4).all()
    # whether it is spared, the gradients, five points, the last one
    assert (result.queries.forward == 1 + 1 + 5 + 1).all()


def test_within_a_radius_it_succeeds_only_where_the_optimum_lies_within():
    model, images, labels = _model(5)
    free = run(create_attack("linear"), model, images, labels)
    radius = free.distance("linf").median().item() * 1.001
    bounded = run(create_attack("linear", eps=radius), model, images, labels)
    assert torch.equal(bounded.success, free.distance("linf") <= radius)
    assert 0 < bounded.success.sum() < len(images)
