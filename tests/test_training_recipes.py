"""Recipes by data and model, and models ready to be trained by them."""

import dataclasses

import pytest
import torch
from training_for_tests import (
    digits,
)

from deitsec.data import ArrayImageSet, DataSource, load_data
from deitsec.models import model_sha256
from deitsec.training import (
    Augmentation,
    FitConfig,
    distill,
    fit,
    new_model,
    predict,
    recipe,
)

NAMES = (
    "small_cnn",
    "deit_micro",
    "mnist_dense",
    "logistic_regression",
    "papernot_mnist",
    "papernot_cifar10",
    "resnet18",
    "deit_tiny_distilled_patch16_224",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["digits", "mnist", "cifar10", (1, 28, 28), (3, 224, 224)])
@pytest.mark.parametrize("pretrained", [False, True])
def test_every_pair_has_a_recipe(name, where, pretrained):
    plan = recipe(where, name, pretrained=pretrained, seed=7)
    assert plan.fit.seed == 7
    distilled = name == "deit_micro" or "distilled" in name
    assert (plan.distillation is not None) == (distilled and not pretrained)
    if plan.distillation is not None:
        assert plan.distillation.fit == plan.fit


@pytest.mark.parametrize("name", ["papernot_mnist", "papernot_cifar10"])
def test_the_papers_recipe_trains_on_every_image(name):
    plan = recipe("cifar10", name)
    assert (plan.fit.validation, plan.fit.epochs, plan.fit.batch_size) == (0.0, 50, 128)


@pytest.mark.parametrize(
    ("shape", "like"), [((1, 28, 28), "mnist"), ((1, 8, 8), "mnist"), ((3, 64, 64), "cifar10")]
)
def test_unknown_data_takes_the_recipe_of_data_alike(shape, like):
    assert recipe(shape, "small_cnn") == recipe(like, "small_cnn")


def test_a_source_is_known_by_its_name():
    assert recipe(digits(), "small_cnn") == recipe("digits", "small_cnn")


def test_new_model_fits_the_data_and_leaves_the_random_stream():
    source = DataSource(
        uri="few",
        name="few",
        train=None,
        test=ArrayImageSet(
            pixels=torch.zeros(3, 1, 28, 28, dtype=torch.uint8), labels=torch.arange(3)
        ),
        class_names=("a", "b", "c"),
    )
    stream = torch.get_rng_state()
    model = new_model("deit_micro", source, seed=4)
    assert torch.equal(torch.get_rng_state(), stream)
    assert (model.num_classes, model.in_chans, model.input_size) == (3, 1, (28, 28))
    assert model_sha256(model) == model_sha256(new_model("deit_micro", source, seed=4))
    assert model_sha256(model) != model_sha256(new_model("deit_micro", source, seed=5))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_default_recipe_teaches_digits():
    source = load_data("digits")
    accuracies = {}
    models = {name: new_model(name, source) for name in ("small_cnn", "deit_micro")}
    fit(models["small_cnn"], source, recipe(source, "small_cnn").fit)
    plan = recipe(source, "deit_micro").distillation
    distill(models["deit_micro"], models["small_cnn"], source, plan)
    for name, model in models.items():
        right = predict(model, source.test).argmax(1) == source.test.labels
        accuracies[name] = right.float().mean().item()
    assert accuracies["small_cnn"] >= 0.98
    assert accuracies["deit_micro"] >= 0.95


def test_noise_goes_into_the_recipe_of_student_and_distillation_and_keeps_the_moves():
    plain, noisy = recipe("digits", "deit_micro"), recipe("digits", "deit_micro", noise=0.25)
    assert noisy.fit.augmentation == dataclasses.replace(plain.fit.augmentation, noise=0.25)
    assert noisy.distillation.fit == noisy.fit
    assert recipe("digits", "deit_micro", noise=0.0) == plain
    assert recipe("digits", "mnist_dense", noise=0.5).fit.augmentation == Augmentation(noise=0.5)


def test_a_recipe_of_another_length_keeps_the_share_of_its_warmup():
    config = FitConfig(epochs=20, warmup_epochs=2.0)
    assert config.with_epochs(5) == FitConfig(epochs=5, warmup_epochs=0.5)
    assert config.with_epochs(None) is config
    assert config.with_epochs(0) is config
    with pytest.raises(ValueError, match="epochs must be >= 1, got -3"):
        config.with_epochs(-3)
