"""ART's classifier and its Carlini and Wagner, as ART has them."""

import inspect

import numpy as np
import pytest
import torch
from golden.network import digits, stored_network
from models_for_tests import conv, images_and_labels
from torch import nn

from deitsec.compat import art

MODEL = conv()
IMAGES = images_and_labels(nn.Flatten(), rows=16)[0].float().numpy()
SHAPE = {"loss": None, "input_shape": (1, 6, 6), "nb_classes": 4}


class Colour(nn.Module):
    """Takes three channels, each normalised by numbers of its own."""

    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])

    def forward(self, x):
        weights = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.5]])
        return x.flatten(2).sum(2) @ weights.T

    def plain(self, x):
        mean, std = (
            torch.as_tensor(v, dtype=x.dtype)[:, None, None] for v in (self.mean, self.std)
        )
        return self((x - mean) / std)


def classifier(model=MODEL, **options):
    return art.PyTorchClassifier(model, **({"clip_values": (0, 1)} | SHAPE | options))


def test_parameters_of_the_classifier_are_those_of_art():
    theirs = pytest.importorskip("art.estimators.classification").PyTorchClassifier
    ours, theirs = (
        {p.name: p.default for p in inspect.signature(cls).parameters.values()}
        for cls in (art.PyTorchClassifier, theirs)
    )
    assert list(ours) == list(theirs)
    # ours leaves the model where it is, unless it is told
    assert ours | {"device_type": "gpu"} == theirs


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("span", [1, 255])
def test_preprocessing_by_arrays(shape, span):
    model = Colour()
    x = np.random.default_rng(0).random((5, 3, 6, 6), dtype=np.float32)
    by_channel = tuple(span * part.reshape(shape) for part in (model.mean, model.std))
    made = classifier(
        model, nb_classes=2, preprocessing=by_channel, clip_values=(0, span), input_shape=(3, 6, 6)
    )
    np.testing.assert_allclose(
        made.predict(span * x), model.plain(torch.from_numpy(x)), rtol=1e-4, atol=1e-3
    )
    adv = art.FastGradientMethod(made, eps=0.1 * span).generate(span * x)
    assert adv.shape == x.shape


@pytest.mark.parametrize(("together", "parts"), [(5, [5, 5, 5, 1]), (128, [16])])
def test_predict_takes_as_many_as_asked_at_once(together, parts):
    seen = []
    model = conv()
    made = classifier(model)
    expected = made.predict(IMAGES)
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    found = made.predict(IMAGES, batch_size=together)
    assert seen == parts
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_preprocessing_by_numbers_and_by_none():
    expected = classifier().predict(IMAGES)
    for nothing in (None, (0.0, 1.0), (np.zeros(1), np.ones(1)), [0, 1]):
        np.testing.assert_array_equal(classifier(preprocessing=nothing).predict(IMAGES), expected)
    moved = classifier(preprocessing=(0.5, 2.0)).predict(IMAGES)
    np.testing.assert_allclose(
        moved, classifier().predict((IMAGES - 0.5) / 2), rtol=1e-5, atol=1e-5
    )


def test_devices_by_art_names():
    assert next(classifier(device_type="cpu").model.parameters()).device.type == "cpu"
    if not torch.cuda.is_available():
        assert next(classifier(device_type="gpu").model.parameters()).device.type == "cpu"


def test_limits_given_as_arrays_that_say_one_thing():
    made = classifier(clip_values=(np.zeros((1, 6, 6)), np.ones((1, 6, 6))))
    assert made.clip_values == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels_first": False}, "channels_first must be True"),
        ({"device_type": "npu"}, "device_type must be cpu, gpu or cuda:N, got 'npu'"),
        ({"use_amp": True}, "use_amp is not supported, got True"),
        ({"preprocessing_defences": [1]}, "preprocessing_defences is not supported"),
        ({"postprocessing_defences": [1]}, "postprocessing_defences is not supported"),
        ({"preprocessing": (np.ones((1, 6, 6)), 1.0)}, "mean must be a number or one a channel"),
        ({"preprocessing": (0.0, np.zeros(1))}, "std must be > 0"),
        ({"preprocessing": (np.ones(2), np.ones(3))}, "mean and std must be as many, got 2 and 3"),
        ({"preprocessing": object()}, r"preprocessing must be \(mean, std\)"),
        ({"clip_values": (np.zeros(2), np.array([1.0, 2.0]))}, "clip_values must be the range"),
    ],
)
def test_what_the_classifier_does_not_do_is_refused_in_one_line(options, words):
    with pytest.raises(ValueError, match=words):
        classifier(**options)


def test_radii_of_each_image_are_refused_in_one_line():
    with pytest.raises(ValueError, match="FastGradientMethod: eps must be one number"):
        art.FastGradientMethod(classifier(), eps=np.full((16, 1, 1, 1), 0.1))


def test_pixels_that_stand_come_back_as_they_were():
    """Scaled to [0, 1] and back, many a value would be another fp32 number."""

    class Bytes(nn.Module):
        def forward(self, x):
            return MODEL(x / 251)

    x = IMAGES * 251
    made = classifier(Bytes(), clip_values=(0, 251))
    aims = (made.predict(x).argmax(1) + 1) % 4
    adv = art.SaliencyMapMethod(made, theta=251.0, gamma=0.1).generate(x, aims)
    changed = (adv != x).reshape(16, -1).sum(1)
    assert 0 < changed.max() <= 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"learning_rate": 0.001},
        {"max_iter": 3},
        {"confidence": 1.0},
        {"max_iter": 1},
    ],
)
def test_carlini_and_wagner_breaks_at_least_what_art_breaks(options):
    """ART's line search makes steps as long as they have to be; ours are not, of themselves."""
    images, labels = (part[1000:1040] for part in digits())
    model = stored_network()
    given = {"loss": nn.CrossEntropyLoss(), "input_shape": (1, 8, 8), "nb_classes": 10}

    def run(library, made, **more):
        attack = library(made, batch_size=40, verbose=False, **options, **more)
        adv = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
        with torch.no_grad():
            return model(adv).argmax(1) != labels, (adv - images).flatten(1).norm(dim=1)

    ours, near = run(art.CarliniL2Method, art.PyTorchClassifier(model, **given, clip_values=(0, 1)))
    assert ours.float().mean() >= 0.97
    pytest.importorskip("art")
    import art.attacks.evasion as evasion
    from art.estimators.classification import PyTorchClassifier

    theirs, far = run(
        evasion.CarliniL2Method,
        PyTorchClassifier(model, **given, clip_values=(0, 1), device_type="cpu"),
    )
    assert ours.sum() >= theirs.sum()
    both = ours & theirs
    assert near[both].median() <= far[both].median()
