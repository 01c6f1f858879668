"""Attacks that look for the nearest success, finish with rows, and run in stages."""

from dataclasses import dataclass

import pytest
import torch
from models_for_tests import Counting, Linear, conv, images_and_labels, mlp
from torch import Tensor, nn

from deitsec.attacks import FGSM, PGD
from deitsec.attacks.attack import Attack
from deitsec.engine import Engine
from deitsec.types import Evidence, Plan, Problem, Query, State, Traits


@dataclass(frozen=True, kw_only=True, slots=True)
class RayState(State):
    turn: Tensor
    away: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Ray(Attack):
    """Looks at points of a fixed ray in an order that is not that of their distance.

    A row is done with after `ends` looks, or after fewer where its sample id is odd.
    """

    name = "ray"
    traits = Traits(norm="l2", goal="minimum")

    eps: float | None = None
    ends: int = 6
    looks: int = 6
    restarts: int = 1
    lengths: tuple[float, ...] = (0.9, 0.3, 0.5, 0.2, 0.7, 0.4)

    @property
    def num_restarts(self) -> int:
        return self.restarts

    def init(self, p: Problem) -> RayState:
        turn = torch.zeros_like(p.sample_ids)
        away = torch.where(p.x < 0.5, 1.0, -1.0).to(p.x.dtype)
        tries = (p.sample_ids >> 48).to(p.x.dtype)[:, None, None, None]
        return RayState(x=p.x, turn=turn, away=away * (1 - 0.1 * tries), done=turn > 0)

    def plan(self) -> Plan:
        return [(self.step, self.looks)]

    def step(self, p: Problem, s: RayState, query: Query) -> RayState:
        lengths = torch.tensor(self.lengths, dtype=p.x.dtype, device=p.x.device)
        scale = lengths[s.turn.clamp(max=len(self.lengths) - 1)][:, None, None, None]
        x = (p.x + 0.5 * scale * s.away).clamp(0, 1)
        query.logits(x)
        ends = torch.where(p.sample_ids % 2 == 1, 2, self.ends)
        return s.replace(x=x, turn=s.turn + 1, done=s.turn + 1 >= ends)


def _on_the_ray(model, images, labels, lengths):
    """Distance of the nearest success among the points of the ray; inf where there is none."""
    nearest = torch.full((len(images),), torch.inf, dtype=torch.float64)
    away = torch.where(images < 0.5, 1.0, -1.0).to(images.dtype)
    for length in lengths:
        x = (images + 0.5 * length * away).clamp(0, 1)
        distance = (x - images).flatten(1).norm(dim=1).double()
        fallen = model(x).argmax(1) != labels
        nearest = torch.where(fallen, torch.minimum(nearest, distance), nearest)
    return nearest


@pytest.mark.parametrize("options", [{}, {"batch_size": 5}, {"compaction": False}])
def test_the_nearest_success_is_kept(options):
    model = mlp()
    images, labels = images_and_labels(model, rows=40)
    result = Engine(model, **options).run(Ray(), images, labels, sample_ids=2 * torch.arange(40))
    nearest = _on_the_ray(model, images, labels, Ray().lengths)
    assert torch.equal(result.success, nearest.isfinite())
    assert result.success.sum() > 0
    found = result.distance("l2")[result.success].double()
    torch.testing.assert_close(found, nearest[result.success], rtol=1e-6, atol=0)


def test_rows_leave_when_the_attack_has_finished_with_them():
    model = Counting(mlp())
    images, labels = images_and_labels(model.model, rows=64)
    everyone = Engine(model, batch_size=32).run(Ray(), images, labels)
    forwards = everyone.queries.forward
    assert forwards[1::2].max() < forwards[::2].min()
    early = _on_the_ray(model.model, images, labels, Ray().lengths[:2])[1::2]
    assert torch.equal(everyone.success[1::2], early.isfinite())
    model.sizes.clear()
    Engine(model, batch_size=32).run(Ray(ends=2), images, labels)
    assert sum(model.sizes) <= 64 * 4  # two looks, the clean image, and the round they leave in


def test_a_radius_makes_farther_successes_failures_and_the_first_within_it_final():
    model = mlp()
    images, labels = images_and_labels(model, rows=40)
    ids = 2 * torch.arange(40)
    nearest = _on_the_ray(model, images, labels, Ray().lengths)
    eps = float(nearest[nearest.isfinite()].median())
    result = Engine(model).run(Ray(eps=eps), images, labels, sample_ids=ids)
    assert torch.equal(result.success, nearest <= eps * (1 + 1e-6))
    assert (result.distance("l2")[result.success] <= eps * (1 + 1e-6)).all()
    assert 0 < result.success.sum() < 40


def test_of_several_tries_the_nearest_counts():
    model = mlp()
    images, labels = images_and_labels(model, rows=40)
    ids = 2 * torch.arange(40)
    one = Engine(model).run(Ray(), images, labels, sample_ids=ids)
    three = Engine(model).run(Ray(restarts=3), images, labels, sample_ids=ids)
    both = one.success & three.success
    assert (three.success >= one.success).all()
    assert (three.distance("l2")[both] <= one.distance("l2")[both] + 1e-6).all()
    assert (three.distance("l2")[both] < one.distance("l2")[both] - 1e-3).any()


@pytest.mark.parametrize("options", [{}, {"compaction": False}])
def test_rows_that_are_wrong_already_are_at_distance_zero_and_cost_nothing(options):
    model = mlp()
    images, labels = images_and_labels(model, rows=20)
    labels[:7] = (labels[:7] + 1) % 5
    result = Engine(model, **options).run(Ray(), images, labels)
    assert result.success[:7].all()
    assert (result.distance("l2")[:7] == 0).all()
    assert (result.queries.forward[:7] == 1).all()
    assert torch.equal(result.logits[:7], result.clean_logits[:7])


def test_lower_precision_does_not_drive_the_search_for_the_nearest():
    model = conv()
    images, labels = images_and_labels(model.double(), rows=24)
    model, images = model.float(), images.float()
    engine = Engine(model, precision="bf16")
    result = engine.run(Ray(), images, labels)
    assert engine.explain()["precision"].startswith("fp32")
    plain = Engine(model).run(Ray(), images, labels)
    assert torch.equal(result.success, plain.success)


def test_a_nearest_success_that_rounding_undoes_is_found_a_little_farther_out():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 6, 6, dtype=torch.float64, generator=generator)
    images = torch.rand(64, 1, 6, 6, dtype=torch.float64, generator=generator)
    images = (images * 255).round() / 255
    model = Linear(weight, bias=-float((weight * 0.5).sum()))
    labels = model(images).argmax(1)
    plain = Engine(model).run(OnTheBorder(weight=weight), images, labels)
    rounded = Engine(model, quantize=True).run(OnTheBorder(weight=weight), images, labels)
    assert rounded.refuted.sum() > 10
    assert rounded.success[plain.success].double().mean() > 0.9
    assert torch.equal((rounded.adv * 255).round() / 255, rounded.adv)
    assert torch.equal(rounded.success, model(rounded.adv).argmax(1) != labels)
    ratio = rounded.distance("l2") / plain.distance("l2")
    assert ratio[rounded.success].median() < 1.2


class OnTheBorder(Attack):
    """The nearest point beyond the border of a linear model, in closed form but for the box."""

    name = "on_the_border"
    traits = Traits(norm="l2", goal="minimum")
    target, confidence, num_targets = None, 0.0, 0

    def __init__(self, weight: Tensor) -> None:
        object.__setattr__(self, "weight", weight)

    __slots__ = ("weight",)

    def plan(self) -> Plan:
        return [(self.step, 1)]

    def step(self, p: Problem, s: State, query: Query) -> State:
        w = self.weight
        margin = (p.x.flatten(1) @ w.flatten()) - float((w * 0.5).sum())
        x = p.x - (margin * (1 + 1e-9) / w.square().sum())[:, None, None, None] * w
        return s.replace(x=x.clamp(0, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Two(Attack):
    """A weak stage, then a strong one, then another where the evidence asks for it."""

    name = "two"
    traits = Traits(norm="linf", targeted=False, deterministic=False)

    eps: float = 0.1
    suspicious: bool = False
    seen: list[Evidence] | None = None

    @property
    def stages(self) -> tuple[Attack, ...]:
        return FGSM(eps=self.eps / 4), PGD(eps=self.eps / 2, steps=10, restarts=2)

    @property
    def spares(self) -> bool:
        return True

    def second_opinion(self, evidence: Evidence) -> tuple[Attack, ...]:
        if self.seen is not None:
            self.seen.append(evidence)
        return (PGD(eps=self.eps, steps=20, num_targets=4),) if self.suspicious else ()

    def plan(self) -> Plan:
        return []


def test_stages_share_the_rows_that_are_standing():
    model = mlp()
    images, labels = images_and_labels(model, rows=60)
    labels[:4] = (labels[:4] + 1) % 5
    engine = Engine(model, batch_size=16)
    seen: list[Evidence] = []
    both = engine.run(Two(seen=seen), images, labels)
    weak = engine.run(FGSM(eps=0.025), images, labels)
    strong = engine.run(PGD(eps=0.05, steps=10, restarts=2), images, labels)
    right = both.clean_correct
    assert torch.equal(both.success[right], (weak.success | strong.success)[right])
    assert torch.equal(both.adv[right & weak.success], weak.adv[right & weak.success])
    by_strong = right & strong.success & ~weak.success
    assert by_strong.any()
    assert torch.equal(both.adv[by_strong], strong.adv[by_strong])
    assert both.success[:4].all()
    assert torch.equal(both.adv[:4], images[:4])
    assert (both.queries.backward[:4] == 0).all()
    assert (both.queries.backward[right & weak.success] == 1).all()
    total = sum(sum(evidence.fell) for evidence in seen)
    assert total == int((both.success & right).sum())


def test_a_second_opinion_is_asked_for_in_view_of_the_evidence():
    model = mlp()
    images, labels = images_and_labels(model, rows=60)
    trusting = Engine(model).run(Two(), images, labels)
    doubting = Engine(model).run(Two(suspicious=True), images, labels)
    assert (doubting.success >= trusting.success).all()
    assert doubting.success.sum() > trusting.success.sum()


def test_progress_of_stages_rises_to_the_end():
    model = mlp()
    images, labels = images_and_labels(model, rows=30)
    told = []
    Engine(model).run(Two(), images, labels, progress=lambda done, _: told.append(done))
    assert told == sorted(told)
    assert told[-1] == 30


def test_stages_run_one_by_one_without_compaction_too():
    model = mlp()
    images, labels = images_and_labels(model, rows=30)
    plain = Engine(model, compaction=False).run(Two(), images, labels)
    usual = Engine(model).run(Two(), images, labels)
    assert torch.equal(plain.success, usual.success)
    worst = Engine(model, stop="never").run(Two(), images, labels)
    assert torch.equal(worst.success, usual.success)
    assert isinstance(model, nn.Module)
