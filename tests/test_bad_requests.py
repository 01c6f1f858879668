"""What an attack cannot do is said in one line, through `deitsec verify` too."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from models_for_tests import images_and_labels, mlp

from deitsec.attacks import FGSM
from deitsec.attacks.registry import ATTACKS
from deitsec.cli import main
from deitsec.engine import run
from deitsec.models import LabelsOnly, ScoresOnly, build_own, load_model, save_checkpoint, wrap
from deitsec.types import Plan, Problem, Query, State, Traits
from deitsec.verification import subject


@dataclass(frozen=True, kw_only=True, slots=True)
class _Aimed(FGSM):
    """FGSM that has to be aimed."""

    name: ClassVar[str] = "aimed"
    traits: ClassVar[Traits] = Traits(norm="linf", untargeted=False, iterative=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ratio(FGSM):
    """A step on the difference of logits ratio, which compares three classes."""

    name: ClassVar[str] = "ratio"
    traits: ClassVar[Traits] = Traits(norm="linf", iterative=False)

    def plan(self) -> Plan:
        return [(self.step, 1)]

    def step(self, p: Problem, s: State, query: Query) -> State:
        grad = query.grad(s.x, p.y, loss="dlr")
        return s.replace(x=(p.x + self.eps * p.direction * grad.sign()).clamp(0, 1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bad") / "model.safetensors"
    save_checkpoint(build_own("logistic_regression", in_chans=1, image_size=32), path)
    return path


@pytest.fixture
def verify(checkpoint, tmp_path, monkeypatch, capsys):
    """Run `deitsec verify` on a model; the exit code and the lines on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ATTACKS, "aimed", _Aimed)

    def go(*arguments, hide=None):
        if hide is not None:

            def obtain(*args, **options):
                inner = load_model(checkpoint=checkpoint)
                hidden = hide(inner, num_classes=10, name="tree")
                model = wrap(hidden, mean=0.0, std=1.0, num_classes=10, in_chans=1, name="tree")
                return model, subject.Origin()

            monkeypatch.setattr(subject, "obtain", obtain)
        line = ["verify", "--checkpoint", str(checkpoint), "--per-class", "2", "--no-sweep"]
        code = main([*line, *arguments])
        lines = capsys.readouterr().err.strip().splitlines()
        return code, [line for line in lines if "━" not in line and line.strip()]

    return go


@pytest.mark.parametrize(
    ("arguments", "hide", "words"),
    [
        (["--attack", "aimed"], None, ["aimed is targeted only", "set target="]),
        (["--attack", "fgsm:target=12"], None, ["target must be in 0 to 9, got 12"]),
        (["--attack", "linear:target=1"], None, ["linear cannot aim at a class"]),
        (["--attack", "pgd"], ScoresOnly, ["pgd needs gradients of the model and tree gives"]),
        (["--attack", "pgd"], LabelsOnly, ["decisions only", "hopskipjump"]),
        (["--attack", "spsa"], LabelsOnly, ["spsa needs scores", "hopskipjump"]),
    ],
)
def test_verify_says_in_one_line_what_cannot_be_done(verify, arguments, hide, words):
    code, lines = verify(*arguments, hide=hide)
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("deitsec: ")
    for word in words:
        assert word in lines[0]


def test_verify_attacks_a_black_box_with_what_works(verify):
    code, lines = verify(
        "--attack", "hopskipjump_linf:max_queries=120,start_queries=20", hide=LabelsOnly
    )
    assert code == 0, lines


def test_targets_that_are_missing_or_the_label_are_refused_in_one_line():
    model = mlp()
    images, labels = images_and_labels(model)
    for attack, targets, words in (
        (_Aimed(), None, "targeted only: give targets"),
        (FGSM(), labels, "the target must differ from the label"),
        (FGSM(target=int(labels[0])), None, "the target must differ from the label"),
        (FGSM(), labels + 5, "targets must be in 0 to 4"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            run(attack, model, images, labels, targets)
        assert "\n" not in str(caught.value)


def test_a_loss_of_three_classes_says_so_and_takes_the_margin_where_there_are_two():
    model = mlp(classes=2)
    images, labels = images_and_labels(model)
    with pytest.warns(UserWarning, match="dlr compares 3 classes and the model has 2: the margin"):
        result = run(_Ratio(eps=0.3), model, images, labels)
    assert result.success.any()
