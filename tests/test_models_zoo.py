"""Names, timm models, pretrained weights."""

import sys
import time

import pytest
import timm
import torch
from safetensors.torch import save_file

from deitsec.models import (
    CheckpointError,
    list_models,
    load_model,
    model_sha256,
    pretrained,
    save_checkpoint,
)
from deitsec.models.zoo import OWN_NETWORKS

# timm's own test networks: 160 pixels, under 400,000 weights.
FLEXIBLE, FIXED = "test_resnet", "test_vit"


def test_own_names_come_first():
    names = list_models()
    assert names[: len(OWN_NETWORKS)] == list(OWN_NETWORKS)
    assert "deit_small_distilled_patch16_224" in names


def test_list_models_matches_a_pattern():
    assert list_models("deit_micro*") == ["deit_micro"]
    assert list_models("deit_*")[:2] == ["deit_micro", "deit_base_distilled_patch16_224"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("deit_mikro", "deit_micro"),
        ("deit_tiny_distiled_patch16_224", "deit_tiny_distilled_patch16_224"),
        ("test_vit.r160_in2k", "test_vit.r160_in1k"),
    ],
)
def test_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(
        ValueError, match=f"unknown model '{name}': the nearest name is '{nearest}'"
    ):
        load_model(name)


def test_a_file_in_the_place_of_a_name_is_told_from_a_misspelt_name(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="a file of weights is given as checkpoint"):
        load_model(str(path))


def test_name_is_needed():
    with pytest.raises(ValueError, match="name is needed"):
        load_model()


def test_timm_model_brings_its_normalisation_and_size():
    model = load_model("deit_tiny_distilled_patch16_224")
    assert model.normalization == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (model.num_classes, model.in_chans, model.input_size) == (1000, 3, (224, 224))
    assert model.distilled
    assert not model.training


@pytest.mark.parametrize(
    ("in_chans", "mean"),
    [(1, (0.449,)), (3, (0.485, 0.456, 0.406)), (4, (0.485, 0.456, 0.406, 0.485))],
)
def test_normalisation_is_adapted_to_the_channels(in_chans, mean):
    model = load_model("resnet18", in_chans=in_chans, num_classes=5, image_size=32)
    assert model.normalization[0] == pytest.approx(mean)
    assert model(torch.rand(1, in_chans, 32, 32)).shape == (1, 5)


def test_fixed_size_is_kept_and_images_are_resized_inside():
    model = load_model(FIXED, image_size=32, num_classes=5, in_chans=1)
    assert model.input_size == (160, 160)
    images = torch.rand(2, 1, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("image_size", "input_size"), [(None, (160, 160)), (48, (48, 48)), ((64, 32), (64, 32))]
)
def test_flexible_size_is_that_of_the_images(image_size, input_size):
    assert load_model(FLEXIBLE, image_size=image_size).input_size == input_size


@pytest.mark.parametrize("name", ["small_cnn", FLEXIBLE])
def test_size_must_be_positive(name):
    with pytest.raises(ValueError, match="image_size must be >= 1, got 0"):
        load_model(name, image_size=0)


@pytest.mark.parametrize("name", ["deit_micro", "small_cnn"])
@pytest.mark.parametrize("size", [(28, 32), (31, 20)])
def test_own_networks_are_squares_of_the_larger_side(name, size):
    model = load_model(name, in_chans=3, image_size=size)
    side = 32 if name == "deit_micro" else max(size)
    assert model.input_size == (side, side)
    assert model(torch.rand(2, 3, *size)).shape == (2, 10)


@pytest.mark.parametrize("side", [1, 6, 8, 28, 29, 30, 31, 32, 50, 63, 64])
def test_deit_micro_takes_images_of_any_size(side, tmp_path):
    model = load_model("deit_micro", in_chans=1, image_size=side)
    whole = model.input_size[0]
    assert model.input_size == (whole, whole)
    assert whole % 4 == 0
    assert side <= whole < side + 4
    images = torch.rand(2, 1, side, side)
    save_checkpoint(model, tmp_path / "model.safetensors")
    restored = load_model(checkpoint=tmp_path / "model.safetensors")
    assert torch.equal(restored(images), model(images))


def test_features_only_model_needs_classes():
    with pytest.raises(
        ValueError, match="has no classification head of its own: pass num_classes="
    ):
        load_model("vit_tiny_patch16_224.augreg_in21k", num_classes=0)


def test_own_network_has_no_pretrained_weights():
    with pytest.raises(ValueError, match="deit_micro has no pretrained weights"):
        load_model("deit_micro", pretrained=True)


def test_pretrained_and_checkpoint_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        load_model(FIXED, pretrained=True, checkpoint="x.safetensors")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, and a hub at a port where nobody listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


@pytest.mark.usefixtures("no_network")
def test_pretrained_without_a_network_fails_fast():
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"pass checkpoint=FILE, or run where there is a"):
        load_model("deit_tiny_distilled_patch16_224", pretrained=True)
    assert time.perf_counter() - start < pretrained.PROBE_SECONDS


def test_pretrained_with_a_silent_network_is_bounded(monkeypatch, no_network):
    import socket

    from huggingface_hub import constants

    monkeypatch.setattr(pretrained, "PROBE_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(CheckpointError, match="could not be fetched"):
            load_model(FIXED, pretrained=True)


def test_model_without_published_weights_says_so():
    name = next(n for n in timm.list_models() if not timm.models.is_model_pretrained(n))
    with pytest.raises(CheckpointError, match=f"no pretrained weights of {name} were published"):
        load_model(name, pretrained=True)


def test_cached_weights_need_no_network(no_network):
    reference = timm.create_model(FIXED)
    repository = no_network / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    save_file(reference.state_dict(), snapshot / "model.safetensors")
    model = load_model(FIXED, pretrained=True, image_size=32)
    assert model_sha256(model) == model_sha256(reference)
    assert model.input_size == (160, 160)
    assert load_model(FIXED, pretrained=True, num_classes=3, in_chans=1).num_classes == 3


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError('operator torchvision::nms does not exist')",
        "AttributeError('partially initialized module torchvision has no attribute extension')",
    ],
)
def test_torchvision_for_another_torch_is_one_clear_line(monkeypatch, tmp_path, error):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(f"raise {error}")
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"torch \S+ and torchvision \S+ do not match") as caught:
        load_model("resnet18")
    assert "\n" not in str(caught.value)


def test_other_errors_of_timm_are_not_hidden(monkeypatch, tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("raise RuntimeError('no space')")
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="no space"):
        list_models()
