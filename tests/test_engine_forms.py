import json

import pytest
import torch
from models_for_tests import conv, images_and_labels, mlp
from torch import nn
from torch.nn import functional

from deitsec.attacks import FGSM, PGD
from deitsec.engine import Engine
from deitsec.engine.attention import attention_by, attention_of
from deitsec.engine.timing import Remembered, fastest, model_key

IMAGES = images_and_labels(mlp(), rows=64)[0].float()
ATTACK = PGD(eps=0.02, steps=10)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DEITSEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "choices.json"


def _labels(model):
    with torch.no_grad():
        return model(IMAGES).argmax(1)


@pytest.mark.parametrize("channels_last", [True, "auto"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_layout_changes_no_answer(channels_last, precision):
    model = conv()
    labels = _labels(model)
    plain, other = (
        Engine(model, channels_last=layout, precision=precision).run(FGSM(eps=0.02), IMAGES, labels)
        for layout in (False, channels_last)
    )
    with torch.no_grad():
        assert torch.equal(other.success, model(other.adv).argmax(1) != labels)
    assert other.adv.is_contiguous()
    # where a gradient is near 0 rounding may turn its sign
    same = (other.adv - plain.adv).abs() < 1e-6
    assert same.float().mean() > (0.995 if precision == "fp32" else 0.97)
    torch.testing.assert_close(other.clean_logits, plain.clean_logits, rtol=1e-4, atol=1e-5)


class Uncopyable(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)

    def __deepcopy__(self, memo):
        raise RuntimeError("holds a lock")


@pytest.mark.filterwarnings("ignore:channels_last")
@pytest.mark.parametrize("channels_last", [True, "auto"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_cannot_be_copied_keeps_its_layout(channels_last, precision):
    model = conv()
    labels = _labels(model)
    engine = Engine(Uncopyable(model), channels_last=channels_last, precision=precision)
    found = engine.run(ATTACK, IMAGES, labels)
    said = engine.explain()["channels_last"]
    assert said.startswith("off: ")
    assert "the model cannot be copied: holds a lock" in said
    with torch.no_grad():
        assert torch.equal(found.success, model(found.adv).argmax(1) != labels)


def test_a_choice_is_written_once_and_honoured(cache, monkeypatch):
    model = conv()
    labels = _labels(model)
    first = Engine(model)
    first.run(ATTACK, IMAGES, labels)
    written = json.loads(cache.read_text())
    layouts = [key for key, choice in written.items() if choice in ("contiguous", "channels_last")]
    assert len(layouts) == 1
    assert "ms" in first.explain()["channels_last"]
    for choice, said in (("channels_last", "on"), ("contiguous", "off")):
        cache.write_text(json.dumps(written | {layouts[0]: choice}))
        before = cache.read_bytes()
        engine = Engine(model)
        with monkeypatch.context() as patch:
            patch.setattr("deitsec.engine.preparation.fastest", _forbidden)
            engine.run(ATTACK, IMAGES, labels)
        assert engine.explain()["channels_last"] == f"{said}: measured before on this machine"
        assert cache.read_bytes() == before


def _forbidden(*args):
    raise AssertionError("measured again")


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "null", "", "\x00\xff"])
def test_a_broken_file_of_choices_is_passed_over(cache, text):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(text.encode("latin-1"))
    assert Remembered().get("key") is None
    Remembered().put("key", "contiguous")
    assert Remembered().get("key") == "contiguous"
    assert json.loads(cache.read_text()) == {"key": "contiguous"}


@pytest.mark.parametrize("value", [3, None, ["contiguous"], "sideways"])
def test_a_choice_that_does_not_exist_is_measured_anew(cache, value):
    model = conv()
    labels = _labels(model)
    Engine(model).run(ATTACK, IMAGES, labels)
    written = json.loads(cache.read_text())
    (key,) = (key for key, choice in written.items() if choice in ("contiguous", "channels_last"))
    cache.write_text(json.dumps(written | {key: value}))
    engine = Engine(model)
    engine.run(ATTACK, IMAGES, labels)
    assert "ms" in engine.explain()["channels_last"]
    assert json.loads(cache.read_text())[key] in ("contiguous", "channels_last")


def test_a_folder_that_cannot_be_written_stops_nothing(cache):
    cache.parent.write_text("a file where the folder should be")
    model = conv()
    labels = _labels(model)
    engine = Engine(model)
    result = engine.run(ATTACK, IMAGES, labels)
    assert "ms" in engine.explain()["channels_last"], "nothing was measured, so nothing to write"
    assert cache.parent.is_file(), "the file in the way was replaced"
    with torch.no_grad():
        assert torch.equal(result.success, model(result.adv).argmax(1) != labels)


def test_the_first_way_wins_near_ties_and_broken_ones_are_left_out(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 1.96] * 5)
    monkeypatch.setattr("deitsec.engine.timing.time.perf_counter", lambda: next(clock))

    def broken():
        raise RuntimeError("no kernel")

    ways = {"plain": lambda: None, "broken": broken, "near": lambda: None}
    choice, seconds = fastest(ways, torch.device("cpu"))
    assert choice == "plain"
    assert set(seconds) == {"plain", "near"}
    with pytest.raises(RuntimeError, match="no kernel"):
        fastest({"broken": broken}, torch.device("cpu"))


def test_the_name_of_a_model_is_its_structure_not_its_weights():
    assert model_key(conv(seed=0)) == model_key(conv(seed=1))
    assert model_key(conv(4)) != model_key(conv(5))
    assert model_key(conv(), "bf16") != model_key(conv(), "fp32")


def _heads(rows=3, heads=2, tokens=5, width=4):
    torch.manual_seed(0)
    shape = (rows, heads, tokens, width)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("by_name", [True, False])
def test_attention_as_matrix_products_is_attention(scale, by_name):
    found, expected = [], []
    for into, setting in ((expected, attention_by("math")), (found, attention_by("matmul"))):
        query, key, value = _heads()
        with setting():
            out = (
                functional.scaled_dot_product_attention(
                    query=query, key=key, value=value, scale=scale
                )
                if by_name
                else functional.scaled_dot_product_attention(query, key, value, scale=scale)
            )
        into.append(out)
        into.extend(torch.autograd.grad(out.sin().sum(), (query, key, value)))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


MASK = torch.ones(5, 5, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"attn_mask": MASK}),
        ((MASK,), {}),
        ((None, 0.0, True), {}),
        ((), {"is_causal": True}),
        ((), {"dropout_p": 1.0}),
        ((), {"attn_mask": torch.zeros(5, 5, dtype=torch.float64), "scale": 0.2}),
    ],
    ids=["mask", "mask by place", "causal by place", "causal", "dropout", "zero mask"],
)
def test_attention_with_more_than_three_tensors_is_passed_on(monkeypatch, args, kwargs):
    query, key, value = _heads()
    expected = functional.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    monkeypatch.setattr("deitsec.engine.attention.matmul_attention", _forbidden)
    with attention_by("matmul")():
        found = functional.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    assert torch.equal(found, expected)


class Attending(nn.Module):
    """Pixels attend to one another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.inward = nn.Linear(1, 12)
        self.outward = nn.Linear(4 * 36, 4)

    def forward(self, x):
        query, key, value = self.inward(x.flatten(2).transpose(1, 2))[:, None].chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return 8 * self.outward(mixed.flatten(1))


def test_attention_of_a_model_is_found_chosen_and_remembered(cache):
    model = Attending().eval()
    labels = _labels(model)
    name, shape = attention_of(lambda: model(IMAGES[:2]))
    assert shape == "2x1x36x4 float32"
    assert attention_of(lambda: conv()(IMAGES[:2])) is None
    first = Engine(model)
    first.run(ATTACK, IMAGES, labels)
    assert f"({name} by PyTorch, 64x1x36x4 float32)" in first.explain()["attention"]
    (key,) = json.loads(cache.read_text())
    results = []
    for choice in (name, "matmul"):
        cache.write_text(json.dumps({key: choice}))
        engine = Engine(model)
        results.append(engine.run(ATTACK, IMAGES, labels))
        assert engine.explain()["attention"] == f"{choice}: measured before on this machine"
    with torch.no_grad():
        for result in results:
            assert torch.equal(result.success, model(result.adv).argmax(1) != labels)
    agreeing = (results[0].success == results[1].success).float().mean()
    assert agreeing > 0.9


def test_a_model_that_cannot_be_compiled_runs_as_it_is(monkeypatch):
    def no_compiler(model, **options):
        def raises(x):
            raise RuntimeError("no C++ compiler\n" + "found " * 50)

        return raises

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = conv()
    labels = _labels(model)
    engine = Engine(model, compile=True, channels_last=False)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        found = engine.run(FGSM(eps=0.02), IMAGES, labels)
    said = engine.explain()
    assert said["compile"] == "off: it was asked for, but no C++ compiler"
    plain = Engine(model, channels_last=False).run(FGSM(eps=0.02), IMAGES, labels)
    assert torch.equal(found.adv, plain.adv)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_model_breaks_where_the_plain_one_does(precision):
    model = conv()
    labels = _labels(model)
    options = {"precision": precision, "channels_last": False, "batch_size": 32}
    engine = Engine(model, compile=True, **options)
    found = engine.run(ATTACK, IMAGES, labels)
    assert engine.explain()["compile"] == "on"
    with torch.no_grad():
        assert torch.equal(found.success, model(found.adv).argmax(1) != labels)
    plain = Engine(model, **options).run(ATTACK, IMAGES, labels)
    assert (found.success == plain.success).float().mean() > 0.95


def test_what_was_decided_is_told_after_the_first_run_only():
    model = conv()
    engine = Engine(model)
    assert list(engine.explain()) == ["nothing"]
    engine.run(ATTACK, IMAGES, _labels(model))
    said = engine.explain()
    assert {"batch_size", "batch_sizes", "precision", "channels_last", "attention"} <= set(said)
    assert {"cuda_graphs", "compaction", "successes"} <= set(said)
    assert all("\n" not in text for text in said.values())
    said["precision"] = "changed"
    assert engine.explain()["precision"] == "fp32"
    Engine(model, deterministic=True).run(ATTACK, IMAGES, _labels(model))
