"""Who finds poisoned rows: the detectors against closed forms, features, and a whole trial."""

import json
import re

import numpy as np
import pytest
import torch
from models_for_tests import mlp
from torch import nn
from training_for_tests import digits

from deitsec.cli import main
from deitsec.data import Patch, flip_labels, plant_backdoor
from deitsec.defenses.activation_clustering import ActivationClustering
from deitsec.defenses.poisoning_trial import (
    effect,
    measure_poisoning,
    standard_detectors,
    without,
)
from deitsec.defenses.spectral_signature import outlier_scores, spectral_signatures
from deitsec.defenses.suspicion import Suspicion, features_of, judge
from deitsec.models import ScoresOnly, build_own, load_model, wrap
from deitsec.models.penultimate import penultimate
from deitsec.training import FitConfig, fit
from deitsec.training.recipes import new_model


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (3, 1), (1, 4)])
def test_spectral_scores_are_those_of_numpys_svd(shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + 5
    centred = features.numpy().astype(np.float64)
    centred = centred - centred.mean(0)
    _, _, directions = np.linalg.svd(centred)
    expected = (centred @ directions[0]) ** 2
    np.testing.assert_allclose(outlier_scores(features).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_spectral_signatures_flag_one_and_a_half_times_the_expected_rows_of_each_class():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(100)[torch.randperm(300, generator=generator)]
    features = torch.randn(300, 12, generator=generator)
    poisoned = torch.zeros(300, dtype=torch.bool)
    poisoned[(labels == 1).nonzero()[:10, 0]] = True
    features[poisoned] += 6.0
    found = spectral_signatures(features, labels, expected=0.1)
    assert [int(found.flagged[labels == label].sum()) for label in range(3)] == [15, 15, 15]
    assert [piece["flagged"] for piece in found.classes] == [15, 15, 15]
    # the mean moves by a tenth, the outliers stay farthest along the direction that they make
    assert found.flagged[poisoned].all()
    top = found.scores[labels == 1].argsort(descending=True)[:10]
    assert poisoned[labels == 1][top].all()
    told = judge(found, poisoned)
    assert (told["precision"], told["recall"]) == (10 / 45, 1.0)
    all_of_them = spectral_signatures(features, labels, expected=1.0)
    assert all_of_them.flagged.all()


@pytest.mark.parametrize("reduction", ["ica", "pca"])
def test_clusters_flag_the_small_far_group_of_a_class_and_nothing_of_the_others(reduction):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(2).repeat_interleave(120)
    features = torch.randn(240, 6, generator=generator, dtype=torch.float64)
    poisoned = torch.zeros(240, dtype=torch.bool)
    poisoned[:30] = True
    features[poisoned] += 15.0
    found = ActivationClustering(reduction=reduction, dimensions=2)(features, labels)
    assert torch.equal(found.flagged, poisoned)
    assert judge(found, poisoned)["auroc"] == 1.0
    assert found.classes[0]["small_share"] == 0.25
    assert found.classes[1]["flagged"] == 0
    assert found.scores[labels == 1].max() < -1  # after every row of a poisoned class
    # of two clusters of one size none is the poisoned one
    half = features.clone()
    half[30:60] += 15.0
    assert not ActivationClustering(reduction=reduction, dimensions=2)(half, labels).flagged.any()


def test_classes_that_are_too_small_or_all_alike_are_not_judged():
    labels = torch.tensor([0] * 5 + [1] * 20)
    features = torch.ones(25, 4)
    features[:5] = torch.randn(5, 4)
    found = ActivationClustering()(features, labels)
    assert not found.flagged.any()
    assert [piece["silhouette"] for piece in found.classes] == [None, None]


def test_precision_recall_and_auroc_are_counted():
    truth = torch.tensor([True, True, False, False, False])
    scores = torch.tensor([3.0, 1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    found = judge(Suspicion(scores=scores, flagged=scores > 1.5, classes=[]), truth)
    assert found["precision"] == 0.5
    assert found["recall"] == 0.5
    assert found["f1"] == 0.5
    # pairs: 3 beats all three; 1 loses to 2, beats 0, ties 1
    assert found["auroc"] == pytest.approx((3 + 1.5) / 6)
    nothing = Suspicion(scores=scores, flagged=torch.zeros(5, dtype=torch.bool), classes=[])
    assert judge(nothing, truth)["precision"] is None
    assert judge(nothing, ~torch.ones(5, dtype=torch.bool))["auroc"] is None
    with pytest.raises(ValueError, match="same rows, got 5, 3"):
        judge(nothing, truth[:3])


@pytest.mark.parametrize("name", ["small_cnn", "papernot_mnist", "mnist_dense", "deit_micro"])
def test_logits_are_the_last_layer_of_the_penultimate_features(name):
    model = build_own(name, in_chans=1, image_size=32).eval()
    images = torch.rand(4, 1, 32, 32)
    features = penultimate(model, images)
    with torch.no_grad():
        if name == "deit_micro":
            heads = (model.module.head, model.module.head_dist)
            logits = sum(h(f) for h, f in zip(heads, features.chunk(2, 1), strict=True)) / 2
        else:
            layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
            logits = layers[-1](features)
        torch.testing.assert_close(logits, model(images))
    assert not features.requires_grad
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_features_of_a_timm_network_are_its_own_pre_logits():
    model = load_model("resnet10t", num_classes=7, in_chans=1, image_size=64)
    images = torch.rand(3, 1, 64, 64)
    network = model.module
    with torch.no_grad():
        prepared = model._prepare(images)
        own = network.forward_head(network.forward_features(prepared), pre_logits=True)
    torch.testing.assert_close(penultimate(model, images), own)


def test_features_of_a_set_are_those_of_its_rows_and_the_mode_stays():
    data = digits()
    model = build_own("mnist_dense", in_chans=1, image_size=8).train()
    features = features_of(model, data.train, batch_size=100)
    assert features.shape == (797, 256)
    assert features.dtype == torch.float64
    assert model.training
    images = data.train.images(torch.tensor([700])) / 255
    alone = penultimate(model.eval(), images)
    torch.testing.assert_close(features[700:701].float(), alone)


class _Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(x.flatten(1)) + self.last(x.flatten(1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ScoresOnly(lambda x: x, num_classes=10, name="tree"), "tree has no last linear"),
        (
            lambda: wrap(nn.Flatten(), mean=0.5, std=0.5, num_classes=10, name="flat"),
            "flat has no last linear layer of 10 outputs",
        ),
        (lambda: wrap(_Twice(), mean=0.0, std=1.0, num_classes=10), "asked once for a batch"),
    ],
)
def test_models_without_one_last_layer_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        penultimate(make(), torch.rand(2, 1, 8, 8))


QUICK = FitConfig(epochs=15, batch_size=32, lr=4e-3, weight_decay=0.0, validation=0.0, threads=1)


@pytest.fixture(scope="module")
def backdoored():
    data = digits()
    poisoned = plant_backdoor(data, rate=0.05, target=0, trigger=Patch(size=2, margin=0))

    def train(stage, source):
        model = new_model("mnist_dense", source, seed=0)
        fit(model, source, QUICK)
        return model

    return measure_poisoning(data, poisoned, train, detectors=standard_detectors(poisoned))


def test_a_backdoor_opens_to_its_trigger_alone_and_its_rows_are_found(backdoored):
    found = backdoored
    assert found["contamination"]["poisoned"] == 40
    assert found["poisoned"]["accuracy"] > 0.9  # nobody notices
    assert found["poisoned"]["attack_success"] > 0.9
    assert found["clean"]["attack_success"] < 0.1
    assert found["poisoned"]["without_trigger"] < 0.05
    by_name = {piece["name"]: piece for piece in found["detectors"]}
    pca = by_name["activation clustering (pca)"]
    assert pca["recall"] > 0.7
    assert pca["precision"] > 0.2  # 0.05 by chance
    assert pca["auroc"] > 0.85
    assert pca["without"]["attack_success"] < 0.6
    assert pca["without"]["accuracy"] > 0.88
    spectral = by_name["spectral signature"]
    assert spectral["auroc"] > 0.65
    # 1.5 times the expected share of every class: it cannot be precise
    assert spectral["flagged"] == pytest.approx(1.5 * 0.339 * 797, abs=10)
    json.dumps(found, allow_nan=False)


def test_flipped_labels_pull_the_source_to_the_target():
    data = digits()
    poisoned = flip_labels(data, rate=0.8, source=3, target=8)
    model = new_model("mnist_dense", data, seed=0)
    fit(model, poisoned.data, QUICK)
    found = effect(model, data, poisoned)
    assert found["flipped"] > 0.5
    assert found["attack_success"] is None
    fit(model, data, QUICK)
    assert effect(model, data, poisoned)["flipped"] < 0.1


def test_what_is_flagged_is_left_out():
    data = digits()
    flagged = torch.zeros(797, dtype=torch.bool)
    flagged[[3, 5]] = True
    kept = without(data, flagged)
    assert len(kept.train) == 795
    assert torch.equal(kept.train.labels, data.train.labels[~flagged])
    with pytest.raises(ValueError, match="every training row of digits is flagged"):
        without(data, ~torch.zeros(797, dtype=torch.bool))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: spectral_signatures(torch.rand(4, 2), torch.zeros(4), expected=0),
            "(0, 1], got 0",
        ),
        (
            lambda: spectral_signatures(torch.rand(4, 2), torch.zeros(3), expected=0.1),
            "got (4, 2) and (3,)",
        ),
        (
            lambda: spectral_signatures(
                torch.full((4, 2), torch.nan), torch.zeros(4), expected=0.1
            ),
            "features must be finite",
        ),
        (
            lambda: ActivationClustering()(torch.rand(4, 2), torch.tensor([0, 1, -1, 0])),
            "labels must be >= 0",
        ),
        (lambda: ActivationClustering(reduction="svd"), "ica or pca, got 'svd'"),
        (lambda: ActivationClustering(dimensions=0), "dimensions must be >= 1"),
        (lambda: ActivationClustering(largest_share=0.6), "largest_share must be in (0, 0.5]"),
        (lambda: ActivationClustering(least_silhouette=2), "least_silhouette must be in [-1, 1]"),
        (lambda: features_of(mlp(), digits().train, batch_size=0), "batch_size must be >= 1"),
    ],
)
def test_bad_requests_are_refused(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--expected", "0"], "--expected must be in (0, 1], got 0"),
        (["--trigger", "stripe"], "--trigger must be patch or blend, got 'stripe'"),
        (["--trigger", "blend", "--size", "3"], "--size does nothing with --kind backdoor"),
        (["--blend-alpha", "0.1"], "--blend-alpha does nothing with --kind backdoor --trigger pat"),
        (["--kind", "flip", "--size", "3"], "--size does nothing with --kind flip"),
        (["--kind", "flip", "--trigger", "patch"], "--trigger does nothing with --kind flip"),
    ],
)
def test_options_that_would_do_nothing_are_refused_before_any_training(
    more, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["poison", *more]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
