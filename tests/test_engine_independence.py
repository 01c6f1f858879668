import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import Toy, conv, images_and_labels, mlp
from torch import nn

from deitsec.attacks import BIM, MIFGSM, PGD, PGDL1, PGDL2
from deitsec.engine import Engine

ROWS = 40
ATTACKS = [
    PGD(eps=0.05, steps=6),
    PGD(eps=0.03, steps=4, restarts=4),
    PGD(eps=0.03, steps=4, num_targets=3),
    PGD(eps=0.03, steps=4, target="random"),
    PGDL2(eps=0.3, steps=5),
    PGDL1(eps=1.5, steps=5),
    MIFGSM(eps=0.05, steps=5),
    BIM(eps=0.05, steps=5),
    Toy(steps=5),
]
REDUCED = [{"precision": "bf16"}, {"quantize": True}, {"precision": "bf16", "quantize": True}]


def _problem(kind):
    model = conv() if kind == "conv" else mlp()
    images, _ = images_and_labels(mlp(), rows=ROWS)
    images = images.to(next(model.parameters()).dtype)
    with torch.no_grad():
        return model, images, model(images).argmax(1)


PROBLEMS = {kind: _problem(kind) for kind in ("conv", "mlp")}


def _in_parts(engine, attack, images, labels, order, cuts):
    """Results by sample id of the rows in this order, cut into runs."""
    parts = [p for p in torch.tensor_split(order, sorted(cuts)) if len(p)]
    results = [engine.run(attack, images[p], labels[p], sample_ids=p) for p in parts]
    back = torch.cat(parts).argsort()
    return {
        name: torch.cat([getattr(result, name) for result in results])[back]
        for name in ("adv", "success", "steps", "logits", "clean_logits")
    }


def _check_parts(kind, attack, seed, cuts, compaction, **options):
    model, images, labels = PROBLEMS[kind]
    whole = Engine(model, batch_size=16, deterministic=True, seed=7, **options)
    expected = whole.run(attack, images, labels)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    engine = Engine(
        model, batch_size=16, deterministic=True, seed=7, compaction=compaction, **options
    )
    found = _in_parts(engine, attack, images, labels, order, cuts)
    for name, values in found.items():
        assert torch.equal(values, getattr(expected, name)), name


@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.name}")
@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, ROWS), max_size=3),
    compaction=st.booleans(),
)
@settings(max_examples=4, deadline=None)
def test_in_deterministic_mode_bytes_belong_to_the_sample(kind, attack, seed, cuts, compaction):
    _check_parts(kind, attack, seed, cuts, compaction)


@pytest.mark.parametrize("attack", ATTACKS[:3], ids=["pgd", "restarts", "targets"])
@pytest.mark.parametrize("options", REDUCED, ids=str)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(0, ROWS), max_size=3))
@settings(max_examples=4, deadline=None)
def test_confirmed_successes_belong_to_the_sample_too(attack, options, seed, cuts):
    _check_parts("conv", attack, seed, cuts, True, **options)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.name}")
@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, ROWS), max_size=2),
    size=st.integers(1, ROWS + 3),
    compaction=st.booleans(),
)
@settings(max_examples=4, deadline=None)
def test_draws_and_tries_do_not_hang_on_the_batch(attack, seed, cuts, size, compaction):
    """In fp64, where what a batch's shape rounds does not turn a sign."""
    model, images, labels = PROBLEMS["mlp"]
    expected = Engine(model, seed=7).run(attack, images, labels)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    engine = Engine(model, batch_size=size, seed=7, compaction=compaction)
    found = _in_parts(engine, attack, images, labels, order, cuts)
    assert torch.equal(found["success"], expected.success)
    assert torch.equal(found["steps"], expected.steps)
    torch.testing.assert_close(found["adv"], expected.adv, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, *REDUCED], ids=str)
def test_two_runs_give_equal_bytes(options):
    model, images, labels = PROBLEMS["conv"]
    engine = Engine(model, deterministic=True, **options)
    first, again = (engine.run(PGD(eps=0.05), images, labels) for _ in range(2))
    other = Engine(model, deterministic=True, **options).run(PGD(eps=0.05), images, labels)
    for run in (again, other):
        for name in ("adv", "logits", "success", "steps", "claims", "refuted"):
            assert torch.equal(getattr(run, name), getattr(first, name)), name


def _switches():
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast dtype": torch.get_autocast_dtype("cpu"),
        "matmul": torch.backends.mkldnn.matmul.fp32_precision,
        "conv": torch.backends.mkldnn.conv.fp32_precision,
        "grad": torch.is_grad_enabled(),
        "rng": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_callers_switches_are_put_back(monkeypatch, fails, deterministic, precision):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    model = nn.Sequential(conv(), nn.Dropout(0.5)).eval()
    _, images, labels = PROBLEMS["conv"]
    torch.use_deterministic_algorithms(False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = _switches()
        engine = Engine(model, deterministic=deterministic, precision=precision)
        if fails:
            with pytest.raises(ValueError, match="labels must be in 0 to 3"):
                engine.run(PGD(eps=0.05), images, labels + 3)
        else:
            engine.run(PGD(eps=0.05), images, labels)
        assert _switches() == before


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"deterministic": True}], ids=str)
def test_the_callers_autocast_does_not_reach_the_model(options):
    model, images, labels = PROBLEMS["conv"]
    outside = Engine(model, **options).run(PGD(eps=0.05), images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = Engine(model, **options).run(PGD(eps=0.05), images, labels)
    assert torch.equal(inside.adv, outside.adv)
    assert torch.equal(inside.logits, outside.logits)


def test_the_callers_reduced_matrix_products_do_not_reach_the_model():
    """`set_float32_matmul_precision("medium")` lets a CPU take bf16 for fp32."""
    seen = set()
    switch = torch.backends.mkldnn.matmul

    class Watching(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            seen.add(switch.fp32_precision)
            return self.model(x)

    model, images, labels = PROBLEMS["conv"]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        Engine(Watching(model)).run(PGD(eps=0.05), images, labels)
        assert seen == {"ieee"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
