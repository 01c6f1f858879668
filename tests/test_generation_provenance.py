"""What decides a dataset beside specs and weights: files of attacks, preparation of models."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from deitsec import FGSM
from deitsec.attacks import parse_spec
from deitsec.attacks.universal_perturbation import UniversalPerturbation
from deitsec.data import load_data
from deitsec.generation import Settings, generate, repair_dataset, verify_dataset
from deitsec.models import Classifier
from deitsec.shards import load_manifest_schema, read_manifest, shard_name
from tests.generation_for_tests import CLASSES, SIDE, digests, engine, source
from tests.models_for_tests import conv

pytest.importorskip("pyarrow", reason="shards are written with pyarrow")
SHARDS = Settings(shard_rows=8)


def perturbation(path: Path, seed: int = 0, norm: str = "linf") -> str:
    generator = torch.Generator().manual_seed(seed)
    delta = 0.05 * torch.randn(1, SIDE, SIDE, generator=generator).sign()
    radius = float(delta.abs().max() if norm == "linf" else delta.norm())
    UniversalPerturbation(delta=delta, eps=radius, norm=norm).save(path)
    name = "universal" if norm == "linf" else f"universal_{norm}"
    return f"{name}:file={path}"


def run(out: Path, spec: str, **options):
    return generate(engine(), parse_spec(spec), source(), out=out, settings=SHARDS, **options)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_another_file_of_the_same_name_is_refused(tmp_path, norm):
    jsonschema = pytest.importorskip("jsonschema")
    file, out = tmp_path / "u.safetensors", tmp_path / "out"
    spec = perturbation(file, norm=norm)
    found = run(out, spec)
    jsonschema.validate(found.to_json(), load_manifest_schema())
    assert run(out, spec, resume=True).complete
    same = file.read_bytes()
    perturbation(file, seed=1, norm=norm)
    with pytest.raises(ValueError, match=r"variants\[0\].file_sha256 was \w{64} and is \w{64}"):
        run(out, spec, resume=True)
    (out / shard_name(1)).unlink()
    with pytest.raises(ValueError, match=r"would not be the same: variants\[0\].file_sha256"):
        repair_dataset(out, data=source(), models=engine().model)
    file.write_bytes(same)
    assert repair_dataset(out, data=source(), models=engine().model).sound


def test_an_attack_without_a_file_has_no_hash(tmp_path):
    (record,) = run(tmp_path, "fgsm:eps=0.1").configuration.variants
    assert (record.file_sha256, record.target, record.preparation) == (None, None, "")


@pytest.mark.parametrize("fault", ["missing", "another"])
def test_a_sound_dataset_is_sound_where_the_file_of_its_attack_is_not(tmp_path, fault):
    file, out = tmp_path / "u.safetensors", tmp_path / "out"
    found = run(out, f"{perturbation(file)},target=1")
    assert found.configuration.variants[0].target == 1
    assert 0 < found.rows < 20
    model = engine().model
    whole = verify_dataset(out, data=source(), models=model)
    assert whole.sound
    assert not whole.unchecked
    if fault == "missing":
        file.unlink()
    else:
        perturbation(file, seed=1)
    proof = verify_dataset(out, data=source(), models=model)
    assert proof.sound
    assert proof.checked["identities"] == found.rows
    assert "predictions" not in proof.checked
    why = "its file is missing" if fault == "missing" else "its file is another one by now"
    assert any(line.endswith(why) for line in proof.unchecked)
    assert any(line.startswith("predictions, confidences") for line in proof.unchecked)


def classifier(**changed) -> Classifier:
    options = {"mean": [0.5], "std": [0.25], "input_size": (SIDE, SIDE), **changed}
    return Classifier(conv(CLASSES), name="conv", num_classes=CLASSES, in_chans=1, **options)


@pytest.mark.parametrize(
    "changed", [{"mean": [0.4]}, {"std": [0.5]}, {"input_size": (2 * SIDE, 2 * SIDE)}], ids=str
)
def test_another_preparation_of_the_same_weights_is_refused(tmp_path, changed):
    attack, options = FGSM(eps=0.1), {"settings": SHARDS, "out": tmp_path}
    made = generate(engine(classifier()), attack, source(), **options)
    record = made.configuration.variants[0]
    assert record.preparation == "mean=0.5 std=0.25 head=average input_size=6x6"
    assert generate(engine(classifier()), attack, source(), resume=True, **options).complete
    with pytest.raises(ValueError, match=r"variants\[0\].preparation was mean=0.5 \S+ .* and is"):
        generate(engine(classifier(**changed)), attack, source(), resume=True, **options)


def test_an_attack_or_model_given_twice_is_refused(tmp_path):
    attack = FGSM(eps=0.1)
    with pytest.raises(ValueError, match=r"fgsm\S+ on Sequential \(\w{8}\) is there twice"):
        generate(engine(), [attack, FGSM(eps=0.1)], source(), out=tmp_path / "0")
    with pytest.raises(ValueError, match="is there twice"):
        generate([engine(), engine()], attack, source(), out=tmp_path / "1")
    assert not list(tmp_path.iterdir())
    both = [engine(classifier()), engine(classifier(mean=[0.4]))]
    assert generate(both, attack, source(), out=tmp_path / "2").complete


def test_a_repair_that_ends_early_closes_its_runner_before_it_returns(tmp_path):
    run(tmp_path, "fgsm:eps=0.1")
    (tmp_path / shard_name(0)).unlink()
    closed = []

    def runner(work, jobs, folder, tick=None):
        try:
            yield object()  # no entry: the repair stumbles over it
        finally:
            closed.append(True)

    kept = []  # so that the generator is not closed by being forgotten

    def keeping(*given):
        kept.append(runner(*given))
        return kept[0]

    with pytest.raises(AttributeError):
        repair_dataset(tmp_path, data=source(), models=engine().model, runner=keeping)
    assert closed == [True]


def test_a_model_by_name_is_made_for_the_size_that_was_attacked(tmp_path, monkeypatch):
    from deitsec.cli import generate_verify
    from deitsec.verification import subject

    data = load_data("digits", image_size=16)
    shape, asked = data.test.shape, []
    assert load_data("digits").test.shape != shape
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
    options = Settings(rows=4)
    made = generate(engine(net), FGSM(eps=0.1), data, out=tmp_path, settings=options)

    def obtain(request, data):
        asked.append(data.test.shape)
        return net, None

    monkeypatch.setattr(subject, "obtain", obtain)
    generate_verify._models(made.configuration, None, "small_cnn", [], False, "average", "cpu")
    assert asked == [shape]


def test_ray_tells_an_error_without_a_cause():
    from types import SimpleNamespace

    from deitsec.generation.ray_runner import _Crew

    class TaskError(Exception):
        cause = None

    def get(_):
        raise TaskError("lost on its way")

    errors = SimpleNamespace(RayTaskError=TaskError)
    crew = _Crew(SimpleNamespace(exceptions=errors, get=get), None, (), None, None)
    with pytest.raises(TaskError, match="lost on its way"):
        crew._answer_of(None, None)


def test_a_manifest_made_again_knows_the_same(tmp_path):
    spec = f"{perturbation(tmp_path / 'u.safetensors')},target=1"
    out = tmp_path / "out"
    before, hashes = run(out, spec).configuration, digests(out)
    (out / "manifest.json").write_text(json.dumps({}))
    assert repair_dataset(out, data=source(), models=engine().model).sound
    after = read_manifest(out).configuration
    assert dataclasses.asdict(after) == dataclasses.asdict(before)
    assert digests(out) == hashes
