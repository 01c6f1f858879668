"""Weight files of any origin: what is understood, what is refused."""

import argparse
import os
import pickle

import pytest
import safetensors.torch
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from deitsec.models import (
    CheckpointError,
    build_own,
    load_model,
    load_weights,
    model_sha256,
    save_checkpoint,
)


def small(**arguments):
    return build_own(
        "small_cnn", **{"num_classes": 3, "in_chans": 1, "image_size": 8, "width": 4, **arguments}
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("kept", [0, 5, 30, -1])
def test_truncated_safetensors_names_the_file(path, kept):
    save_checkpoint(small(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated or damaged"):
        load_model("small_cnn", checkpoint=path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_truncated_torch_file_names_the_file(tmp_path, zipped, part):
    file = tmp_path / "model.pt"
    torch.save(small().module.state_dict(), file, _use_new_zipfile_serialization=zipped)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CheckpointError, match=r"model\.pt: truncated or damaged"):
        load_weights(small(), file)


@pytest.mark.parametrize("content", [b"", b"hello, this is no checkpoint"])
def test_other_files_are_refused(tmp_path, content):
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"expected a safetensors file or a torch\.save file"):
        load_weights(small(), file)


def test_missing_file_is_refused(path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_model("small_cnn", checkpoint=path)


class Attack:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "write",
    [
        lambda thing, file: torch.save({"state_dict": {"w": thing}}, file),
        lambda thing, file: torch.save(thing, file, _use_new_zipfile_serialization=False),
        lambda thing, file: file.write_bytes(pickle.dumps(thing)),
        lambda thing, file: file.write_bytes(pickle.dumps(thing, protocol=2)),
    ],
)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_pickle_that_runs_code_is_refused_and_not_run(tmp_path, write, name):
    witness, file = tmp_path / "witness", tmp_path / name
    write(Attack(f"touch {witness}"), file)
    with pytest.raises(CheckpointError) as caught:
        load_model("small_cnn", checkpoint=file)
    assert not witness.exists()
    assert "\n" not in str(caught.value)
    if name == "model.pt":
        assert "refused, for unpickling it could run code" in str(caught.value)


def test_whole_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"it holds torch\.nn\.modules\.linear\.Linear"):
        load_weights(small(), tmp_path / "model.pt")


@pytest.mark.parametrize("nest", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_nested_and_prefixed_state_dicts_are_found(tmp_path, nest, prefix):
    source, target = small(), small()
    state = {prefix + key: value for key, value in source.module.state_dict().items()}
    document = {nest: state, "epoch": 3, "args": argparse.Namespace(lr=0.1)} if nest else state
    torch.save(document, tmp_path / "model.pt")
    load_weights(target, tmp_path / "model.pt")
    assert model_sha256(target) == model_sha256(source)


def test_state_dict_of_the_classifier_itself_is_understood(path):
    source, target = small(), small()
    safetensors.torch.save_file(source.state_dict(), path)
    load_weights(target, path)
    assert model_sha256(target) == model_sha256(source)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 2], "expected a state dict, got a list"),
        ({}, "got nothing"),
        ({"epoch": 1, "lr": 0.1}, r"entries that are no tensors \(2\): epoch, lr"),
    ],
)
def test_no_state_dict_is_an_error(tmp_path, document, message):
    torch.save(document, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        load_weights(small(), tmp_path / "model.pt")


def test_every_misfit_is_listed_and_bounded(path):
    model = small()
    state = model.module.state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith("1.")}
    kept["0.weight"] = torch.zeros(2, 2)
    extra = {f"extra{i}": torch.zeros(1) for i in range(7)}
    safetensors.torch.save_file({**kept, **extra}, path)
    before = model_sha256(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path)
    text = str(caught.value)
    assert "5 missing: 1.weight, 1.bias, 1.running_mean" in text
    assert "7 not expected: extra0, extra1, extra2, extra3, extra4, …" in text
    assert "extra5" not in text
    assert "1 of another shape: 0.weight (2, 2) for (4, 1, 3, 3)" in text
    assert model_sha256(model) == before


def test_wrong_class_count_of_a_foreign_checkpoint_is_named(path):
    safetensors.torch.save_file(small().module.state_dict(), path)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_model("small_cnn", checkpoint=path, in_chans=1, image_size=8)


def to_transformers(state, family):
    """Write timm's names as transformers writes them, query, key and value apart."""
    renamed = {}
    body = {
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    single = {
        "cls_token": f"{family}.embeddings.cls_token",
        "dist_token": f"{family}.embeddings.distillation_token",
        "pos_embed": f"{family}.embeddings.position_embeddings",
        "patch_embed.proj": f"{family}.embeddings.patch_embeddings.projection",
        "norm": f"{family}.layernorm",
        "head": "cls_classifier" if family == "deit" else "classifier",
        "head_dist": "distillation_classifier",
    }
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if name in single:
            renamed[single[name]] = tensor
        elif stem in single:
            renamed[f"{single[stem]}.{kind}"] = tensor
        else:
            _, block, part = stem.split(".", 2)
            layer = f"{family}.encoder.layer.{block}"
            if part == "attn.qkv":
                for piece, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    renamed[f"{layer}.attention.attention.{piece}.{kind}"] = value.clone()
            else:
                renamed[f"{layer}.{body[part]}.{kind}"] = tensor
    return renamed


@pytest.mark.parametrize(
    ("network", "family"), [(VisionTransformerDistilled, "deit"), (VisionTransformer, "vit")]
)
def test_transformers_names_are_understood(path, network, family):
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
    source, target = (network(**size, num_classes=4) for _ in range(2))
    safetensors.torch.save_file(to_transformers(source.state_dict(), family), path)
    load_weights(target, path)
    assert model_sha256(target) == model_sha256(source)
