"""A black box counts the rows that it is asked about, and keeps to a budget."""

import copy
import re

import pytest
import torch
from models_for_tests import Counting, images_and_labels, mlp

from deitsec.attacks import create_attack
from deitsec.engine import Engine
from deitsec.engine.options import Options
from deitsec.models import QueryBudgetError, wrap_sklearn
from deitsec.models.black_box import LabelsOnly, ScoresOnly

ASKING = [
    (ScoresOnly, "square", {"n_queries": 60}),
    (ScoresOnly, "spsa", {"steps": 4}),
    (ScoresOnly, "nes", {"steps": 3}),
    (LabelsOnly, "hopskipjump", {"max_queries": 330}),
    (LabelsOnly, "hopskipjump_linf", {"max_queries": 330}),
]


@pytest.mark.parametrize("options", [{}, {"deterministic": True, "batch_size": 5}, {"seed": 3}])
@pytest.mark.parametrize(("hide", "name", "settings"), ASKING)
def test_every_row_that_reaches_the_model_is_counted(hide, name, settings, options):
    inside = Counting(mlp())
    images, labels = images_and_labels(mlp(), rows=12)
    hidden = hide(inside, num_classes=5)
    result = Engine(hidden, **options).run(create_attack(name, **settings), images, labels)
    assert hidden.queries == sum(inside.sizes)
    # rows that fill a batch are on the bill too
    billed = int(result.queries.forward.sum())
    assert hidden.queries >= billed if options.get("deterministic") else hidden.queries == billed


def test_a_transfer_asks_the_black_box_about_clean_and_final_images_alone():
    inside = Counting(mlp())
    images, labels = images_and_labels(mlp(), rows=10)
    hidden = LabelsOnly(inside, num_classes=5)
    engine = Engine(hidden, surrogate=mlp(seed=5), stop="never")
    engine.run(create_attack("fgsm", eps=0.01), images, labels)
    assert hidden.queries == sum(inside.sizes)
    assert hidden.queries <= 1 + 3 * len(images)  # one image tells the number of classes


def test_copies_share_the_count_and_the_budget():
    hidden = ScoresOnly(mlp(), num_classes=5, budget=10)
    images, _ = images_and_labels(mlp(), rows=4)
    for one in (hidden, copy.deepcopy(hidden), copy.copy(hidden)):
        if one is hidden or one.queries < 8:
            one(images)
    assert hidden.queries == 8
    twin = copy.deepcopy(torch.nn.Sequential(hidden))
    with pytest.raises(QueryBudgetError):
        twin(images)
    assert hidden.queries == 8  # what was refused costs nothing
    twin(images[:2])
    assert hidden.queries == 10
    assert hidden.count.left == 0


def test_a_spent_budget_is_said_in_one_line_and_the_model_is_not_asked():
    inside = Counting(mlp())
    images, labels = images_and_labels(mlp(), rows=6)
    hidden = ScoresOnly(inside, num_classes=5, budget=40, name="oracle")
    words = r"oracle: the budget of 40 queries is used up: 36 rows were asked about, and 6 more"
    with pytest.raises(QueryBudgetError, match=words) as caught:
        Engine(hidden, stop="never").run(create_attack("square", n_queries=50), images, labels)
    assert "\n" not in str(caught.value)
    assert sum(inside.sizes) == hidden.queries == 36


@pytest.mark.parametrize(
    ("budget", "error", "words"),
    [
        (0, ValueError, "budget must be >= 1, got 0"),
        (-5, ValueError, "budget must be >= 1, got -5"),
        (2.5, TypeError, "budget must be an integer or None, got 2.5"),
        (True, TypeError, "budget must be an integer or None, got True"),
    ],
)
def test_a_bad_budget_is_refused(budget, error, words):
    with pytest.raises(error, match=re.escape(words)):
        ScoresOnly(mlp(), num_classes=5, budget=budget)


def test_the_count_is_in_no_state_dict_and_a_tree_counts_too():
    from sklearn.datasets import load_digits
    from sklearn.tree import DecisionTreeClassifier

    bunch = load_digits()
    tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(
        bunch.data[:200], bunch.target[:200]
    )
    model = wrap_sklearn(tree, image_shape=(1, 8, 8), scale=16)
    model(torch.rand(7, 1, 8, 8))
    assert model.queries == 7
    assert model.state_dict() == {}


def test_steps_of_a_black_box_are_never_replayed(monkeypatch):
    """A replay of a CUDA graph runs no Python, so that it would go uncounted."""
    session = Engine(ScoresOnly(mlp(), num_classes=5))._session
    open_model = Engine(mlp())._session
    monkeypatch.setattr(Options, "device", property(lambda self: torch.device("cuda")))
    assert "counts its queries" in session._graphs_off()
    assert open_model._graphs_off() is None
