"""Checkpoints: round trips, refusals, and what an error leaves behind."""

import json
import os
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

import deitsec
from deitsec.models import (
    CheckpointError,
    build_own,
    load_model,
    load_weights,
    model_sha256,
    read_model_card,
    save_checkpoint,
    wrap,
)
from deitsec.models.model_card import ModelCard

FACTS = {
    "training": {"epochs": 2, "lr": 0.1, "schedule": [1, 2]},
    "metrics": {"accuracy": 0.5},
    "class_names": ("a", "b", "c"),
}


def small(**arguments):
    return build_own(
        "small_cnn", **{"num_classes": 3, "in_chans": 1, "image_size": 8, "width": 4, **arguments}
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def rows(model, count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, model.in_chans, *model.input_size, generator=generator)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deit_micro", {"embed_dim": 32, "depth": 1, "num_classes": 3, "head": "distillation"}),
        ("papernot_mnist", {"image_size": 16, "num_classes": 3, "dropout": 0.25}),
        ("papernot_cifar10", {"image_size": 16, "num_classes": 3}),
        ("mnist_dense", {"width": 8, "num_classes": 3}),
        ("logistic_regression", {"num_classes": 3}),
        ("small_cnn", {"width": 4, "in_chans": 2, "num_classes": 3}),
    ],
)
def test_checkpoint_restores_the_model_itself(path, name, arguments):
    model = build_own(name, **arguments).eval()
    card = save_checkpoint(model, path, **FACTS)
    restored = load_model(None, checkpoint=path)
    images = rows(model)
    assert torch.equal(restored(images), model(images))
    for attribute in ("name", "num_classes", "in_chans", "input_size", "head", "normalization"):
        assert getattr(restored, attribute) == getattr(model, attribute)
    assert restored.arguments == model.arguments
    assert not restored.training
    assert card.sha256 == model_sha256(model) == model_sha256(restored)
    assert load_model(name, checkpoint=path).name == name


def test_checkpoint_restores_a_timm_model(path):
    model = load_model("test_resnet.r160_in1k", num_classes=3, in_chans=1, image_size=48)
    save_checkpoint(model, path)
    restored = load_model("test_resnet", checkpoint=path)
    assert (restored.name, restored.input_size) == ("test_resnet.r160_in1k", (48, 48))
    assert torch.equal(restored(rows(model)), model(rows(model)))


def test_saving_twice_gives_equal_bytes(path, tmp_path):
    save_checkpoint(small(), path, **FACTS)
    again = tmp_path / "again.safetensors"
    save_checkpoint(load_model(checkpoint=path), again, **FACTS)
    assert again.read_bytes() == path.read_bytes()
    assert (tmp_path / "again.card.json").read_bytes() == (
        tmp_path / "model.card.json"
    ).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_survives(path, dtype):
    model = small().to(dtype)
    save_checkpoint(model, path)
    restored = load_model(checkpoint=path)
    assert model_sha256(restored) == model_sha256(model)
    assert restored.mean.dtype == torch.promote_types(dtype, torch.float32)


def test_weights_that_share_memory_are_saved(path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
    module[2].weight = module[1].weight
    model = wrap(module, mean=0.5, std=0.5, num_classes=4)
    save_checkpoint(model, path)
    load_weights(model, path)


def test_sha256_sees_names_shapes_dtypes_and_bytes():
    model = small()
    before = model_sha256(model)
    assert model_sha256(model.module) == before
    assert model_sha256(model.to(memory_format=torch.channels_last)) == before
    assert model_sha256(small().double()) != before
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] += 1e-3
    assert model_sha256(model) != before
    flat, square = nn.ParameterList([torch.zeros(4)]), nn.ParameterList([torch.zeros(2, 2)])
    assert model_sha256(flat) != model_sha256(square)


def test_card_is_inside_and_beside(path):
    model = small()
    card = save_checkpoint(model, path, **FACTS)
    beside = path.with_name("model.card.json")
    assert read_model_card(path) == read_model_card(beside) == card
    assert card.training == FACTS["training"]
    assert card.class_names == ("a", "b", "c")
    assert (card.architecture, card.deitsec) == ("small_cnn", deitsec.__version__)
    assert json.loads(beside.read_text())["arguments"] == model.arguments
    beside.unlink()
    assert read_model_card(path) == card
    assert load_model(checkpoint=path).num_classes == 3


def test_card_beside_a_file_without_one_is_used(path, tmp_path):
    model = small()
    save_checkpoint(model, path)
    torch.save(model.module.state_dict(), tmp_path / "model.pt")
    path.unlink()
    assert model_sha256(load_model(checkpoint=tmp_path / "model.pt")) == model_sha256(model)


def test_no_card_is_an_error(path):
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no model card inside it or beside it"):
        read_model_card(path)
    with pytest.raises(ValueError, match=r"name is needed: .* carries no model card"):
        load_model(checkpoint=path)


def test_altered_weights_are_refused(path):
    save_checkpoint(small(), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered or damaged: sha256"):
        load_model(checkpoint=path)


def test_weights_that_are_not_those_of_the_only_card_are_refused(path, tmp_path):
    save_checkpoint(small(), path)
    torch.save(small().module.state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="altered or damaged: sha256"):
        load_model(checkpoint=tmp_path / "model.pt")


def test_prefix_that_belongs_to_the_network_is_kept(path):
    model = wrap(nn.ModuleDict({"module": nn.Linear(2, 2)}), mean=0.5, std=0.5, num_classes=2)
    save_checkpoint(model, path)
    load_weights(model, path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "deit_micro"}, "holds small_cnn, got name='deit_micro'"),
        ({"num_classes": 4}, "has 3 classes, got num_classes=4"),
        ({"in_chans": 4}, "takes 1 channels, got in_chans=4"),
        ({"head": "class"}, "small_cnn has one head"),
    ],
)
def test_arguments_must_agree_with_the_checkpoint(path, arguments, message):
    save_checkpoint(small(), path)
    with pytest.raises(ValueError, match=message):
        load_model(**{"name": None, "checkpoint": path, **arguments})


def test_arguments_that_only_describe_the_images_are_taken(path):
    save_checkpoint(small(), path)
    model = load_model(checkpoint=path, num_classes=3, in_chans=3, image_size=32)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_wrapped_module_is_saved_but_not_rebuilt(path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model = wrap(module, mean=0.5, std=0.5, num_classes=3, name="mine")
    assert save_checkpoint(model, path).arguments is None
    with pytest.raises(CheckpointError, match="holds a wrapped mine, which no name rebuilds"):
        load_model(checkpoint=path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    load_weights(other, path)
    assert model_sha256(other) == model_sha256(model)


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        (
            "test_vit",
            {"checkpoint_path": "/etc/passwd"},
            "timm models take .* got .*checkpoint_path",
        ),
        ("test_vit", {"pretrained": True}, "got .*pretrained"),
        ("small_cnn", {"nonsense": 1}, "cannot be rebuilt"),
        ("no_such_network", {}, "cannot be rebuilt .*unknown model"),
    ],
)
def test_card_cannot_ask_for_anything_else(path, architecture, arguments, message):
    card = save_checkpoint(small(), path)
    forged = replace(card, architecture=architecture, arguments=arguments)
    safetensors.torch.save_file(
        small().module.state_dict(), path, metadata={"deitsec_card": forged.to_json()}
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": "3"}, "'num_classes' must be int, got '3'"),
        ({"mean": ["a"]}, "'mean' must be list"),
        ({"input_size": [8]}, "'input_size' must be list or NoneType"),
        ({"schema": 2}, "schema must be 1, got 2"),
        ({"colour": 1}, "unknown \\['colour'\\]"),
    ],
)
def test_wrong_card_is_refused(path, change, message):
    document = json.loads(save_checkpoint(small(), path).to_json())
    with pytest.raises(CheckpointError, match=message):
        ModelCard.from_json(json.dumps({**document, **change}), source=path)


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_card_that_is_none_is_refused(path, text):
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        ModelCard.from_json(text, source=path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"class_names": ["a", "b"]}, ValueError, "class_names must have 3 entries, got 2"),
        ({"metrics": {"accuracy": float("nan")}}, ValueError, "must be plain JSON values"),
        ({"training": {"lr": torch.zeros(1)}}, TypeError, "must be plain JSON values"),
    ],
)
def test_wrong_facts_leave_no_file(path, arguments, error, message):
    with pytest.raises(error, match=message):
        save_checkpoint(small(), path, **arguments)
    assert list(path.parent.iterdir()) == []


def test_only_safetensors_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
        save_checkpoint(small(), tmp_path / "model.pt")


def test_only_classifiers_are_saved(path):
    with pytest.raises(TypeError, match="must be a Classifier, got Sequential"):
        save_checkpoint(small().module, path)


def test_a_checkpoint_is_readable_between_the_two_renames(monkeypatch, path):
    old, replace = small(), os.replace
    save_checkpoint(old, path)

    def fail_on_the_weights(source, target):
        if target == path:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_the_weights)
    new = small()
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(new, path)
    assert read_model_card(path.with_name("model.card.json")).sha256 == model_sha256(new)
    assert read_model_card(path).sha256 == model_sha256(old)
    assert model_sha256(load_model(checkpoint=path)) == model_sha256(old)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [False, True])
def test_interrupted_save_leaves_what_was_there(monkeypatch, path, function, error, existing):
    if existing:
        save_checkpoint(small(), path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}

    def fail(*_):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        save_checkpoint(small(), path)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_full_disk_leaves_nothing(path):
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(small(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(path.parent.iterdir()) == []


def test_folders_are_made_and_the_model_is_left_alone(tmp_path):
    model = small().train()
    model.module[0].weight.requires_grad_(False)
    before = model_sha256(model)
    save_checkpoint(model, tmp_path / "a" / "b" / "model.safetensors")
    assert (tmp_path / "a" / "b" / "model.card.json").is_file()
    assert model.training
    assert not model.module[0].weight.requires_grad
    assert model_sha256(model) == before
