"""HopSkipJump against its algorithm written plainly, and what its budget promises."""

import math

import pytest
import torch
from models_for_tests import Linear, images_and_labels, mlp, problem
from torch import nn

from deitsec.attacks import create_attack
from deitsec.attacks.draws import normal, uniform
from deitsec.engine import Engine, run
from deitsec.models.black_box import LabelsOnly


class _Plain:
    """Algorithm 2 of arXiv:1904.02144 for one image, query after query, as it is written."""

    def __init__(self, model, x, label, norm, queries, b0):
        self.model, self.x, self.label, self.norm = model, x, label, norm
        self.left, self.b0, self.asked = queries, b0, []
        self.p = problem(x, label)

    def distance(self, x):
        change = (x - self.x).flatten()
        return (change.norm() if self.norm == "l2" else change.abs().max()).item()

    def phi(self, x):
        if len(self.asked) == self.left:
            raise StopIteration
        self.asked.append(x)
        return self.model(x).argmax(1).item() != self.label.item()

    def clock(self):
        return torch.tensor([len(self.asked)])

    def search(self, far):
        d = self.x.numel()
        low, high, theta = 0.0, 1.0, d**-1.5
        if self.norm == "linf":
            high = self.distance(far)
            theta = min(high, 1) / d**2
        best = far
        while True:
            middle = (low + high) / 2
            if self.norm == "l2":
                x = (1 - middle) * self.x + middle * far
            else:
                x = torch.minimum(torch.maximum(far, self.x - middle), self.x + middle)
            if self.phi(x):
                high, best = middle, x
            else:
                low = middle
            if high - low <= theta:
                return best

    def estimate(self, x, delta, number):
        probes, decisions = [], []
        for _ in range(number):
            if self.norm == "l2":
                u = normal(self.p, self.x, 3, self.clock())
            else:
                u = 2 * uniform(self.p, self.x, 3, self.clock()) - 1
            asked = (x + delta * u / u.norm()).clamp(0, 1)
            decisions.append(1.0 if self.phi(asked) else -1.0)
            probes.append((asked - x) / delta)
        mean = sum(decisions) / number
        if abs(mean) == 1:
            v = sum(mean * u for u in probes)
        else:
            v = sum((phi - mean) * u for phi, u in zip(decisions, probes, strict=True))
        return v / v.norm() if self.norm == "l2" else v.sign()

    def run(self):
        far = uniform(self.p, self.x, 2, self.clock())
        assert self.phi(far)  # the first draw of noise will do
        t = 1
        while True:
            x = self.search(far)
            delta = 0.1 if t == 1 else self.distance(far) / self.x.numel()
            v = self.estimate(x, delta, int(self.b0 * math.sqrt(t)))
            size = self.distance(x) / math.sqrt(t)
            while not self.phi(moved := (x + size * v).clamp(0, 1)):
                size /= 2
            far, t = moved, t + 1


class _Recording(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append(x)
        return self.model(x)


@pytest.mark.parametrize(("name", "norm"), [("hopskipjump", "l2"), ("hopskipjump_linf", "linf")])
def test_it_is_its_algorithm_query_by_query(name, norm):
    weight = torch.randn(1, 6, 6, dtype=torch.float64)
    model = Linear(weight, bias=-float(weight.sum() / 2) + 0.2)
    images = 0.35 + 0.3 * torch.rand(30, 1, 6, 6, dtype=torch.float64)
    labels = model(images).argmax(1)
    attack = create_attack(name, max_queries=300, initial_evaluations=25, start_queries=5)
    checked = 0
    for row in range(len(images)):
        plain = _Plain(model, images[row : row + 1], labels[row : row + 1], norm, 300, 25)
        first = uniform(plain.p, plain.x, 2, plain.clock())
        if model(first).argmax(1) == labels[row]:
            continue  # a start takes more than one draw
        with pytest.raises(StopIteration):
            plain.run()
        recording = _Recording(model)
        Engine(recording).run(attack, plain.x, plain.label)
        seen = recording.seen[-302:]  # the last iterate is asked about once more
        start = next(i for i, x in enumerate(seen) if torch.equal(x, plain.asked[0]))
        for ours, theirs in zip(seen[start:], plain.asked, strict=False):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        checked += 1
        if checked == 4:
            break
    assert checked == 4


@pytest.mark.parametrize("name", ["hopskipjump", "hopskipjump_linf"])
def test_labels_alone_give_the_same_images(name):
    model = mlp()
    images, labels = images_and_labels(model)
    attack = create_attack(name, max_queries=600)
    full = run(attack, model, images, labels)
    hidden = run(attack, LabelsOnly(model, num_classes=5), images, labels)
    assert full.success.all()
    assert torch.equal(hidden.adv, full.adv)
    assert torch.equal(hidden.success, full.success)
    assert torch.equal(hidden.queries.forward, full.queries.forward)


@pytest.mark.parametrize("name", ["hopskipjump", "hopskipjump_linf"])
def test_every_row_is_asked_as_often_as_it_may_be(name):
    model = mlp()
    images, labels = images_and_labels(model, rows=5)
    result = run(create_attack(name, max_queries=500), model, images, labels)
    # and once for the clean image, and once for the last iterate
    assert (result.queries.forward == 502).all()
    assert (result.queries.backward == 0).all()


def test_more_queries_bring_it_nearer():
    model = mlp()
    images, labels = images_and_labels(model, rows=8)
    near, nearer = (
        run(create_attack("hopskipjump", max_queries=n), model, images[:8], labels[:8]).distance(
            "l2"
        )
        for n in (400, 1600)
    )
    assert (nearer <= near).all()  # the same draws, and more of them
    assert nearer.mean() < 0.9 * near.mean()


class _Stubborn(nn.Module):
    """Class 1 on a half of the images, class 2 on none."""

    def forward(self, x):
        bright = x.flatten(1).mean(1) - 0.5
        return torch.stack([-bright, bright, torch.full_like(bright, -9.0)], 1)


@pytest.mark.parametrize("access", ["full", "labels"])
def test_a_row_without_a_start_is_a_failure(access):
    model = _Stubborn() if access == "full" else LabelsOnly(_Stubborn(), num_classes=3)
    images = 0.4 + 0.02 * torch.rand(16, 1, 6, 6, dtype=torch.float64)
    labels = torch.zeros(16, dtype=torch.int64)
    targets = torch.tensor([1, 2] * 8)
    attack = create_attack("hopskipjump", max_queries=200, start_queries=40)
    result = Engine(model, batch_size=16).run(attack, images, labels, targets)
    assert torch.equal(result.success, targets == 1)
    assert torch.equal(result.logits.argmax(1) == targets, result.success)
    assert (result.queries.forward[targets == 2] < 60).all()  # it leaves


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["hopskipjump", "hopskipjump_linf"])
def test_coarse_images_are_searched_as_far_as_they_can_tell(name, dtype):
    model = mlp().float()
    images, labels = images_and_labels(mlp())

    class Wide(nn.Module):
        def forward(self, x):
            return model(x.float())

    images = images.to(dtype)
    labels = Wide()(images).argmax(1)
    attack = create_attack(name, max_queries=800)
    result = run(attack, Wide(), images, labels)
    exact = run(attack, Wide(), images.float(), labels)
    norm = attack.traits.norm
    assert result.adv.dtype is dtype
    assert result.success.all()
    assert result.distance(norm).median() < 1.3 * exact.distance(norm).median()


def test_within_a_radius_a_row_ends_at_its_first_success():
    model = mlp()
    images, labels = images_and_labels(model)
    attack = create_attack("hopskipjump", max_queries=800, eps=0.4)
    result = run(attack, model, images, labels)
    assert result.success.any()
    assert (result.distance("l2")[result.success] <= 0.4 * (1 + 1e-6)).all()
    assert result.queries.forward[result.success].float().mean() < 700


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_queries": 300}, "max_queries must be more than start_queries=300, got 300"),
        ({"initial_evaluations": 0}, "initial_evaluations must be >= 1"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"target": 1, "confidence": 0.5}, "sees decisions only"),
    ],
)
def test_bad_options_say_what_is_wrong(options, words):
    with pytest.raises(ValueError, match=words):
        create_attack("hopskipjump", **options)
