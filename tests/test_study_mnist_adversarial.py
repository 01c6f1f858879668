"""The study of the MNIST networks in its quick form, and what it computes from its figures."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from deitsec.models import wrap
from deitsec.studies import page_of, reproduce
from deitsec.studies.mnist_adversarial import STUDY, Options
from deitsec.studies.mnist_adversarial_page import compared
from deitsec.studies.mnist_adversarial_targeted import LITERAL_RATE, Pairs, _descend, _kept
from deitsec.studies.pictures import unpacked

QUICK = {"epochs": 6, "defended_per_class": 2}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    return reproduce("mnist-adversarial", quick=True, out=out, options=QUICK), out


def test_the_dense_network_is_measured_every_hundred_of_its_steps(quick):
    training = quick[0]["found"]["networks"]["dense"]["training"]
    assert [record["epoch"] for record in training["epochs"]] == [1, 2, 3, 4]  # 400 steps
    # an epoch is a hundred batches to the row
    assert training["rows"] == 100 * training["settings"]["batch_size"] == 700
    last = training["epochs"][-1]["measured"]["test_accuracy"]
    assert last == pytest.approx(quick[0]["found"]["networks"]["dense"]["answers"]["accuracy"])
    assert last > 0.9


def test_each_network_is_fooled_in_every_way(quick):
    for one in quick[0]["found"]["networks"].values():
        answers = one["answers"]
        assert answers["right"]["label"] == answers["right"]["predicted"] == list(range(10))
        wrong = zip(answers["wrong"]["label"], answers["wrong"]["predicted"], strict=True)
        assert all(label != predicted for label, predicted in wrong)
        assert [point["eps"] for point in one["fgsm"]["points"]] == [0.05, 0.1, 0.2]
        assert one["fgsm"]["points"][-1]["accuracy"] < one["fgsm"]["clean"] - 0.5
        assert one["noise"]["sharpened"]["rows"] == 20
        assert one["noise"]["sharpened"]["reached"] > 0.8
        pairs = {(source, target) for source, target, _ in one["targeted"]["pairs"]}
        assert pairs == {(s, t) for s in range(10) for t in range(10) if s != t}
        assert one["targeted"]["reached"] >= one["targeted"]["kept"]
        assert one["targeted"]["reached"] > one["targeted_literal"]["noise"]["reached"] + 0.3


def test_no_defense_is_said_to_withstand_more_than_under_its_worst_attack(quick):
    defenses = quick[0]["found"]["defenses"]
    assert [entry["name"] for entry in defenses] == [
        "undefended",
        "adversarial training",
        "defensive distillation",
        "input noise",
    ]
    for entry in defenses:
        assert entry["all"] <= min(entry["fgsm"], entry["pgd"], entry["adaptive"])
        assert max(entry["fgsm"], entry["pgd"], entry["adaptive"]) <= entry["clean"]
    assert defenses[1]["all"] > defenses[0]["all"]
    assert "logits / 20" in defenses[2]["words"]
    assert "4 draws" in defenses[3]["words"]


def test_the_page_is_made_of_the_result(quick):
    document, out = quick
    page, figures = page_of(document)
    assert page == (out / "mnist-adversarial.md").read_text()
    assert "Nothing was published for these networks on this data." in page
    assert set(figures) == {
        *("training", "answers", "fgsm", "fgsm-examples", "noise"),
        *("targeted-dense", "targeted-mnist_dense"),
    }
    assert "## The mnist_dense network" in page  # which is not convolutional
    assert "convolutional" not in page.partition("## The dense network")[2]
    assert all(len(content) < 300_000 for content in figures.values())


class Stopped(Exception):  # noqa: N818 - it names what happened
    """Somebody pulled the plug."""


class Unplugged:
    """Stops in the middle of a training, or of an attack."""

    def __init__(self, stage):
        self.stage = stage

    def rows(self, stage, done, total):
        if stage == self.stage:
            raise Stopped

    def training(self, stage, event):
        if stage == self.stage and event.epoch == 2:
            raise Stopped


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key != "seconds"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def test_a_study_that_was_stopped_comes_to_the_same(quick, tmp_path):
    for stage in ("dense", "targeted, plain descent", "distilled"):
        with pytest.raises(Stopped):
            reproduce(
                "mnist-adversarial",
                quick=True,
                out=tmp_path,
                options=QUICK,
                shown=Unplugged(stage),
            )
    resumed = reproduce("mnist-adversarial", quick=True, out=tmp_path, options=QUICK)
    assert _timeless(resumed["found"]) == _timeless(quick[0]["found"])


def _linear(scale=1.0):
    weights = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.5, 1.0, -1.0, 2.0], [-1.0, 0.5, 1.5, -0.5]])
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(scale * weights)
        layer.bias.zero_()
    return wrap(nn.Sequential(nn.Flatten(), layer), mean=0.0, std=1.0, num_classes=3, in_chans=1)


def test_the_plain_descent_is_that_of_the_formula():
    model, weight = _linear(), 0.5
    source = torch.tensor([[0.2, 0.4, 0.6, 0.8]]).reshape(1, 1, 2, 2)
    start = torch.tensor([[0.5, 0.6, 0.3, 0.4]]).reshape(1, 1, 2, 2)
    run = SimpleNamespace(
        data=SimpleNamespace(num_classes=3),
        options=SimpleNamespace(crafting_steps=3, weight=weight),
        rows=lambda stage: lambda done, total: None,
    )
    goal = torch.tensor([2])
    pairs = Pairs(rows=goal, sources=torch.tensor([0]), targets=goal, images=source)
    found = _descend(run, model, pairs, start)
    # the same in float64, by the Jacobian of the softmax
    w = model.module[1].weight.detach().double()
    x, x0 = start.double().flatten(), source.double().flatten()
    y = torch.eye(3, dtype=torch.float64)[2]
    for _ in range(3):
        p = (w @ x).softmax(0)
        slope = w.T @ ((p.diag() - p.outer(p)) @ (p - y)) + 2 * weight * (x - x0)
        x = (x - LITERAL_RATE * slope).clamp(0, 1)
    assert found["distance"] == pytest.approx((x - x0).norm().item(), rel=1e-5)
    assert found["reached"] == float((w @ x).argmax() == 2)


def test_an_image_on_the_border_is_lost_in_rounding():
    """The first value alone decides: class 0 above 0.501, which lies between two levels."""
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0.0, 0, 0, 0]]))
        layer.bias.copy_(torch.tensor([-0.501, 0.501, -9.0]))
    model = wrap(nn.Sequential(nn.Flatten(), layer), mean=0.0, std=1.0, num_classes=3, in_chans=1)
    # on one side of 0.501 before, and 128/255 = 0.50196 or 127/255 = 0.49804 after rounding
    images = torch.zeros(4, 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor([0.5005, 0.4999, 0.9, 0.1])
    before = model(images).argmax(1)
    assert before.tolist() == [1, 1, 0, 1]
    kept = _kept(model, images, before, 0.0)
    assert kept.tolist() == [False, True, True, True]  # the first is rounded over the border
    weak = _linear(scale=1e-3)
    image = torch.tensor([[0.9, 0.0, 0.5, 0.0]]).reshape(1, 1, 2, 2)
    assert _kept(weak, image, weak(image).argmax(1), 0.0)
    assert not _kept(weak, image, weak(image).argmax(1), 0.9)
    assert not _kept(weak, image, weak(image).argmin(1), 0.0)


def test_only_differences_of_more_than_two_points_are_named():
    def networks(dense, convolutional):
        return {
            "dense": {"answers": {"accuracy": dense}},
            "convolutional": {"answers": {"accuracy": convolutional}},
        }

    close, far = compared(networks(0.979, 0.992)), compared(networks(0.94, 0.992))
    assert "No figure is more than 2.0 points" in close
    assert "+0.90" in close
    assert "More than 2.0 points apart: dense." in far
    assert "-3.00" in far


def test_the_shown_pictures_are_the_crafted_ones(quick):
    found = quick[0]["found"]["networks"]["dense"]["targeted"]
    sources, images = unpacked(found["sources"]), unpacked(found["images"])
    apart = [
        math.sqrt((((images[k] / 255.0) - (sources[source] / 255.0)) ** 2).sum())
        for k, (source, _, kept) in enumerate(found["pairs"])
        if kept
    ]
    assert sum(apart) / len(apart) == pytest.approx(found["distance"], rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 150}, "steps must be a multiple of every, got steps=150, every=100"),
        ({"noises": 0}, "noises must be >= 1, got 0"),
        ({"epochs": -1}, "epochs must be >= 0"),
        ({"radii": (0.2, 0.1)}, "radii must ascend"),
        ({"radii": (0.0,)}, r"must be in \(0, 1\], got 0.0"),
        ({"weight": math.inf}, "weight must be > 0 and finite"),
        ({"eps": 1.5}, r"eps must be in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_the_whole_form_is_the_studys():
    whole = Options()
    assert (whole.steps, whole.every, whole.crafting_steps, whole.weight) == (1000, 100, 500, 0.5)
    assert STUDY.data == "mnist"
