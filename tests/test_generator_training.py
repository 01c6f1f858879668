"""The training of a generator: its losses, what it may and may not read, and how it goes on."""

import dataclasses
import math

import pytest
import torch
from models_for_tests import Linear
from training_for_tests import (
    InterruptError,
    assert_same_weights,
    few_digits,
    interrupt_at,
    network,
    relabelled,
    without_seconds,
)

from deitsec.attacks import FGSM, AdvGAN
from deitsec.data import ArrayImageSet, DataSource, to_float
from deitsec.engine import Engine
from deitsec.models import LabelsOnly, model_sha256, wrap
from deitsec.training import FitConfig, GeneratorConfig, TrainingDiverged, train_generator
from deitsec.training.generator_comparison import compare_attacks, generation_rate, same_aim
from deitsec.training.generator_training import _fresh, _Rivalry
from deitsec.training.loop import STATE_FILE
from deitsec.training.method import Batch

FIT = FitConfig(
    epochs=3, batch_size=32, optimizer="adam", lr=2e-3, weight_decay=0.0, clip_grad=None
)
QUICK = GeneratorConfig(fit=FIT, eps=0.3, width=4, blocks=1)


@pytest.fixture(scope="module")
def data():
    return few_digits()


def _weights(trained):
    return trained.generator.network.state_dict()


class _Players:
    """What the loss reads of the classifier that the loop trains."""

    def __init__(self, game):
        self.module = game


@pytest.mark.parametrize("target", [None, 3, "any"])
def test_the_loss_is_the_papers(data, target):
    """Row by row in plain Python, from the formulas."""
    config = dataclasses.replace(
        QUICK, target=target, kappa=0.5, gan_weight=0.7, hinge_weight=0.2, hinge=0.9
    )
    classifier, game = network().eval(), _fresh(data, config)
    with torch.no_grad():
        game.generator.leave.weight.mul_(20)
    labels, rows = data.train.labels[:16], torch.arange(16)
    batch = Batch(
        images=to_float(data.train.images(rows)), labels=labels, rows=rows, epoch=1, update=5
    )
    rivalry = _Rivalry(classifier, config)
    aims = rivalry._aims(labels, rows, 5)
    total = rivalry.loss(_Players(game), batch).item()
    adversarial, hinge, deceit, real, made = [], 0.0, 0.0, 0.0, 0.0
    with torch.no_grad():
        told = aims if target == "any" else None
        change = 0.3 * game.generator(batch.images, told)
        moved = (batch.images + change).clamp(0, 1)
        logits = classifier(moved).tolist()
        scores = [game.discriminator(x).tolist() for x in (batch.images, moved)]
    for i in range(16):
        y = int(labels[i]) if aims is None else int(aims[i])
        ours, other = logits[i][y], max(z for k, z in enumerate(logits[i]) if k != y)
        lead = ours - other if aims is None else other - ours
        if aims is None or y != int(labels[i]):
            adversarial.append(max(lead, -0.5))
        hinge += max(0.0, math.sqrt(sum(v * v for v in change[i].flatten().tolist())) - 0.9) / 16
        deceit += (scores[1][i] - 1) ** 2 / 32
        real += (scores[0][i] - 1) ** 2 / 32
        made += scores[1][i] ** 2 / 32
    expected = sum(adversarial) / len(adversarial) + 0.2 * hinge + 0.7 * deceit + real + made
    assert hinge > 0
    assert total == pytest.approx(expected, rel=1e-5)
    assert len(adversarial) == (16 if target != 3 else int((labels != 3).sum()))


def test_each_player_learns_from_its_own_loss_alone(data):
    config = dataclasses.replace(QUICK, gan_weight=0.7)
    classifier, game = network().eval().requires_grad_(False), _fresh(data, config)
    rows = torch.arange(16)
    images, labels = to_float(data.train.images(rows)), data.train.labels[rows]
    batch = Batch(images=images, labels=labels, rows=rows, epoch=1, update=0)
    rivalry = _Rivalry(classifier, config)
    rivalry.loss(_Players(game), batch).backward()
    critic, maker = game.discriminator, game.generator
    moved, _ = rivalry._moved(maker, images, None)
    judged = ((critic(images) - 1).square().mean() + critic(moved.detach()).square().mean()) / 2
    own = torch.autograd.grad(judged, list(critic.parameters()))
    for weight, grad in zip(critic.parameters(), own, strict=True):
        torch.testing.assert_close(weight.grad, grad)
    margin = rivalry._margin(classifier(moved), labels, None).clamp(min=-config.kappa).mean()
    loss = margin + 0.7 * (critic(moved) - 1).square().mean() / 2
    for weight, grad in zip(
        maker.parameters(), torch.autograd.grad(loss, list(maker.parameters())), strict=True
    ):
        torch.testing.assert_close(weight.grad, grad)


def test_random_targets_are_never_the_label_and_belong_to_row_and_step(data):
    config = dataclasses.replace(QUICK, target="any")
    rivalry = _Rivalry(network(), config)
    labels, rows = data.train.labels, torch.arange(200)
    aims = rivalry._aims(labels, rows, 7)
    assert not (aims == labels).any()
    assert set(aims.tolist()) == set(range(10))
    order = torch.randperm(200)
    assert torch.equal(rivalry._aims(labels[order], rows[order], 7), aims[order])
    assert not torch.equal(rivalry._aims(labels, rows, 8), aims)


def test_on_a_linear_model_it_finds_the_rows_that_can_fall_and_no_others():
    """Bright or dark: the least margin in ball and box is known in closed form."""
    generator = torch.Generator().manual_seed(0)
    level = torch.linspace(0.2, 0.8, 400)[torch.randperm(400, generator=generator)]
    noise = 0.1 * torch.rand(400, 1, 8, 8, generator=generator)
    pixels = ((level[:, None, None, None] + noise) * 255).round().byte()
    model = Linear(torch.ones(1, 8, 8), bias=-0.55 * 64)
    images = to_float(pixels)
    labels = model(images).argmax(1)
    some = [
        ArrayImageSet(pixels=pixels[part], labels=labels[part])
        for part in (slice(0, 300), slice(300, 400))
    ]
    data = DataSource(
        uri="levels", name="levels", train=some[0], test=some[1], class_names=("bright", "dark")
    )
    classifier = wrap(model, mean=0.0, std=1.0, num_classes=2, in_chans=1)
    config = dataclasses.replace(QUICK, eps=0.1, fit=dataclasses.replace(FIT, epochs=20, lr=5e-3))
    made = train_generator(classifier, data, config).generator
    x, y = images[300:], labels[300:]
    with torch.no_grad():
        fell = classifier(made.apply(x)).argmax(1) != y
        margin = model.margin(x).abs() / 64
    assert not fell[margin > 0.1 + 1e-6].any()
    assert (margin > 0.1).any()
    # at the border itself a continuous network cannot turn from one side to the other
    easy = (margin > 0.02) & (margin < 0.08)
    assert easy.sum() > 15
    assert fell[easy].all()


def test_the_success_that_picks_the_epoch_is_the_engines(data, tmp_path):
    classifier = network().eval()
    for target in (None, 4):
        config = dataclasses.replace(QUICK, target=target)
        trained = train_generator(classifier, data, config)
        path = tmp_path / "g.safetensors"
        trained.generator.save(path)
        order = torch.randperm(200, generator=torch.Generator().manual_seed(FIT.seed))
        rows = order[:20].sort().values
        labels = data.train.labels[rows]
        rows, labels = (v[labels != target] if target else v for v in (rows, labels))
        attack = AdvGAN(generator=str(path), target=target)
        result = Engine(classifier).run(attack, to_float(data.train.images(rows)), labels)
        assert trained.fit.best.validation_accuracy == pytest.approx(result.success_rate)


def test_it_learns_and_leaves_the_model_and_the_test_split_alone(data):
    classifier = network().train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    stream = torch.get_rng_state()
    config = dataclasses.replace(QUICK, fit=dataclasses.replace(FIT, epochs=8))
    trained = train_generator(classifier, data, config)  # the test split cannot be read
    losses = [record.train_loss for record in trained.fit.history]
    assert losses[-1] < losses[0]
    assert classifier.training
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), stream)
    made = trained.generator
    assert made.model == {"name": classifier.name, "sha256": model_sha256(classifier)}
    assert made.training["data"] == {"uri": "few", "sha256": data.sha256}
    assert made.training["settings"]["seed"] == 0


def test_the_seed_decides(data):
    classifier = network().eval()
    config = dataclasses.replace(QUICK, fit=dataclasses.replace(FIT, epochs=1))
    other = dataclasses.replace(config, fit=dataclasses.replace(FIT, epochs=1, seed=1))
    first, again = (train_generator(classifier, data, config) for _ in range(2))
    assert_same_weights(_weights(first), _weights(again))
    changed = _weights(train_generator(classifier, data, other))
    assert not torch.equal(changed["leave.weight"], _weights(first)["leave.weight"])


@pytest.mark.parametrize("target", [None, "any"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(data, tmp_path, target):
    classifier = network().eval()
    config = dataclasses.replace(QUICK, target=target)
    whole = train_generator(classifier, data, config)
    with pytest.raises(InterruptError):
        train_generator(classifier, data, config, out=tmp_path, progress=interrupt_at(2))
    resumed = train_generator(classifier, data, config, out=tmp_path, resume=True)
    assert_same_weights(_weights(resumed), _weights(whole))
    assert without_seconds(resumed.fit) == without_seconds(whole.fit)


def test_another_radius_or_another_model_is_refused_by_its_difference(data, tmp_path):
    config = dataclasses.replace(QUICK, fit=dataclasses.replace(FIT, epochs=1))
    train_generator(network(), data, config, out=tmp_path)
    assert (tmp_path / STATE_FILE).exists()
    other = dataclasses.replace(config, eps=0.2)
    with pytest.raises(ValueError, match=r"eps was 0\.3 and is 0\.2"):
        train_generator(network(), data, other, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"against\.sha256 was"):
        train_generator(network(seed=5), data, config, out=tmp_path, resume=True)


def test_a_training_that_diverges_is_stopped(data):
    config = dataclasses.replace(QUICK, fit=dataclasses.replace(FIT, lr=1e30))
    with pytest.raises(TrainingDiverged, match="is not finite in epoch 1"):
        train_generator(network(), data, config)


def test_no_more_rows_are_taken_than_asked_for(data):
    config = dataclasses.replace(QUICK, rows=50, fit=dataclasses.replace(FIT, epochs=1))
    result = train_generator(network(), data, config).fit
    assert (result.num_train, result.num_validation) == (45, 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": 0.0}, "eps must be in"),
        ({"kappa": -1.0}, "kappa must be at least 0"),
        ({"gan_weight": float("inf")}, "gan_weight must be at least 0"),
        ({"hinge_weight": -0.1}, "hinge_weight must be at least 0"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"target": "next"}, "target must be a class, any or None, got 'next'"),
        ({"fit": FitConfig(label_smoothing=0.1)}, "label_smoothing must be 0"),
    ],
    ids=str,
)
def test_options_out_of_range_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        GeneratorConfig(**change)


def test_what_cannot_be_trained_against_is_refused(data):
    classifier = network()
    hidden = wrap(LabelsOnly(classifier, num_classes=10), mean=0.0, std=1.0, num_classes=10)
    same = relabelled(data, torch.full((200,), 3))
    more = dataclasses.replace(data, class_names=tuple("abcdefghijk"))
    with pytest.raises(ValueError, match="gives none: train it against a substitute"):
        train_generator(hidden, data, QUICK)
    with pytest.raises(ValueError, match="target must be in 0 to 9, got 10"):
        train_generator(classifier, data, dataclasses.replace(QUICK, target=10))
    with pytest.raises(ValueError, match="every image shows the target class 3"):
        train_generator(classifier, same, dataclasses.replace(QUICK, target=3))
    with pytest.raises(ValueError, match="has 10 classes, and few has 11"):
        train_generator(classifier, more, QUICK)
    with pytest.raises(ValueError, match="no training split"):
        train_generator(classifier, dataclasses.replace(data, train=None), QUICK)


def test_attacks_are_compared_on_the_same_rows_at_the_same_aim(data, tmp_path):
    classifier = network().eval()
    config = dataclasses.replace(QUICK, target="any", fit=dataclasses.replace(FIT, epochs=1))
    made = train_generator(classifier, data, config).generator
    path = tmp_path / "g.safetensors"
    made.save(path)
    images, labels = to_float(data.train.images(torch.arange(40))), data.train.labels[:40]
    attacks = [same_aim(a, made) for a in (AdvGAN(generator=str(path)), FGSM(eps=0.3))]
    assert [attack.target for attack in attacks] == ["random", "random"]
    found = compare_attacks(classifier, attacks, images, labels, repeats=3)
    results = [Engine(classifier).run(attack, images, labels) for attack in attacks]
    assert torch.equal(results[0].targets, results[1].targets)
    for entry, result in zip(found, results, strict=True):
        assert entry["success_rate"] == pytest.approx(result.success_rate)
        assert entry["linf"] == result.distance("linf").max().item()
        assert len(entry["seconds"]) == 3
        assert entry["images_per_second"] == pytest.approx(40 / sorted(entry["seconds"])[1])
    assert generation_rate(made, images, repeats=1) > 0
