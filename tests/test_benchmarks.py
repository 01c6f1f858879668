import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from deitsec.cli import main
from deitsec.models import build_own

ROOT = Path(__file__).parents[1]
# last: the checkout's deitsec/ must not hide an installed one
sys.path.append(str(ROOT))

from benchmarks import gate, peers, render  # noqa: E402
from benchmarks.floor import frozen, model_floor, tuned_pgd  # noqa: E402

EPS, ALPHA, STEPS = 0.1, 0.03, 7


@pytest.fixture
def linear():
    model = build_own("logistic_regression", in_chans=1, image_size=6).eval()
    images = torch.rand(5, 1, 6, 6)
    return model, images, model(images).argmax(1)


def _plain_pgd(model, images, labels):
    """Madry et al., eq. 2.1, a line at a time; the start drawn as the tuned one draws it."""
    x = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        functional.cross_entropy(model(x), labels, reduction="sum").backward()
        stepped = x.detach() + ALPHA * x.grad.sign()
        x = (images + (stepped - images).clamp(-EPS, EPS)).clamp(0, 1)
    return x


def test_tuned_pgd_is_the_plain_one(linear):
    model, images, labels = linear
    torch.manual_seed(1)
    expected = _plain_pgd(model, images, labels)
    torch.manual_seed(1)
    found = tuned_pgd(frozen(model), EPS, ALPHA, STEPS)(images, labels)
    # the ball and the box are one clamp there, which rounds once less
    torch.testing.assert_close(found, expected, rtol=0, atol=1.2e-7)
    assert not found.requires_grad


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_a_peer_is_the_plain_pgd(peer, linear):
    reason = peer.missing()
    if reason is not None:
        pytest.skip(reason)
    model, images, labels = linear
    found = peer.make(model, EPS, ALPHA, 2 * STEPS)(images, labels)
    best = images + EPS * (_plain_pgd(model, images, labels) - images).sign()
    assert (found - images).abs().max() <= EPS + 1e-6
    # the sign of a linear model's gradient changes nowhere else than near a tie
    assert (found - best.clamp(0, 1)).abs().mean() < 0.01


def test_a_missing_peer_says_how_to_get_it():
    peer = peers.Peer(name="x", package="no-such-package", modules=("no_such",), make=peers.art)
    assert peer.version is None
    assert "no-such-package is not installed" in (peer.missing() or "")


def test_the_floor_makes_the_passes_it_is_told(linear):
    model, images, _ = linear
    model = frozen(model)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    run = model_floor(model, images, forwards=5, backwards=3)
    passes.clear()
    run()
    assert passes == [True, True, True, False, False]


def test_the_gate_refuses_what_attacked_less_or_left_the_ball(linear):
    model, images, _ = linear
    labels = model(images).argmax(1)
    attack = tuned_pgd(frozen(model), 0.5, 0.2, 10)(images, labels)
    found = {"eager": attack, "deitsec lazy": images, "deitsec far": attack + 0.2}
    judged = gate.judge(model, images, labels, 0.5, found)
    assert judged.success["eager"] == 1
    assert not judged.passed
    assert "success" in judged.faults["deitsec lazy"]
    assert "ball" in judged.faults["deitsec far"]
    assert gate.judge(model, images, labels, 0.5, {"eager": attack, "deitsec": attack}).passed


def test_the_page_says_what_was_not_measured(tmp_path):
    text = render.page(tmp_path / "nothing", tmp_path / "img")
    assert text.count("Not measured: no result file is there.") == 4
    assert not (tmp_path / "img").exists()


@pytest.mark.slow
def test_quick_benchmarks_run_and_their_rows_are_rendered(tmp_path, capfd):
    out = tmp_path / "results" / "here"
    quick = ["--quick", "--out", str(out), "--benchmarks", str(ROOT / "benchmarks")]
    assert main(["bench", "all", *quick]) == 0, capfd.readouterr().out
    results = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    assert set(results) == {
        "ops",
        "attacks",
        "compaction",
        "precision",
        "strong",
        "training",
        "reading",
        "generation",
    }
    assert render.load(tmp_path / "results", "attacks") == []  # quick figures are no results
    for group, result in results.items():
        (out / f"{group}.json").write_text(json.dumps({**result, "quick": False}))
    text = render.page(tmp_path / "results", tmp_path / "img")
    for words in (
        "| deitsec fp32 |",
        "| model floor |",
        "| deitsec no compaction |",
        "16 tokens",
        "| bf16 |",
        "`saliency_pair`",
        "| `reliable`, ",
        "### Adversarial training, ",
        "### Reading, ",
        "| small_cnn 28, PGD-10, Ray with 2 workers |",
    ):
        assert words in text
    for picture in ("attacks", "compaction"):
        assert len(list((tmp_path / "img").glob(f"{picture}-*.png"))) == 1


def test_a_failed_gate_shows_no_speed():
    row = {
        "network": "n",
        "steps": 2,
        "batch": 4,
        "eps": 0.1,
        "weights": "random",
        "noise_success": 0.0,
        "gate": {"passed": False, "faults": {"ART": "leaves the ball by 0.1"}},
    }
    from benchmarks import render_attacks

    assert "No speed: the gate failed** (ART leaves the ball" in render_attacks.pgd(row)


def test_reading_rows_are_rendered_with_what_missed_its_target():
    from benchmarks import render_reading

    row = {"case": "28 x 28", "dtype": "uint8", "rows": 640, "shard_rows": 2}
    row |= {"images_per_second": {"a": 60_000.0, "b": 40_000.0}}
    what = {"limit": 50_000, "measured": 40_000.0, "what": "b", "met": False}
    facts = {"device": "here", "torch": "2", "python": "3", "commit": "x", "date": "today"}
    text = render_reading.reading([{**facts, "rows": [{**row, "targets": [what]}]}])
    assert "| 28 x 28 uint8 | 640 in shards of 2 | 60,000 | 40,000 |" in text
    assert "| >= 50,000 | 40,000 | **no** |" in text
    assert render_reading.reading([]) == ""


def test_bench_has_help_and_says_what_it_lacks(tmp_path, monkeypatch, capsys):
    assert main(["bench", "--help"]) == 0
    assert "--quick" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["bench"]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert "--benchmarks" in message
    assert main(["bench", "speed"]) == 2
    assert "'speed'" in capsys.readouterr().err


def test_the_gpu_script_is_bash():
    script = ROOT / "benchmarks" / "gpu.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "OUTDIR" in done.stderr


def test_the_gpu_script_refuses_parts_that_it_does_not_know(tmp_path):
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out")]
    environment = {**os.environ, "PARTS": "tests oops"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("training generation, got oops")
    assert not (tmp_path / "out").exists()
