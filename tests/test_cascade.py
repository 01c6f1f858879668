"""Attacks in turn: who is attacked by which stage, and that rows do not know each other."""

from dataclasses import dataclass

import pytest
import torch
from models_for_tests import images_and_labels, mlp

from deitsec.attacks import FGSM, PGD
from deitsec.attacks.apgd import APGD
from deitsec.attacks.attack import Attack
from deitsec.attacks.cascade import Cascade
from deitsec.engine import Engine
from deitsec.types import Evidence, Traits

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=60)
WRONG = LABELS.clone()
WRONG[::7] = (WRONG[::7] + 1) % 5
EPS = 0.06


@dataclass(frozen=True, kw_only=True, slots=True)
class InTurn(Cascade):
    """Any attacks in turn, and others when the evidence asks for them."""

    name = "in_turn"
    traits = Traits(norm="linf", deterministic=False)

    attacks: tuple[Attack, ...]
    more: tuple[Attack, ...] = ()
    seen: list[Evidence] | None = None

    @property
    def stages(self):
        return self.attacks

    def second_opinion(self, evidence):
        if self.seen is not None:
            self.seen.append(evidence)
        return self.more


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched(PGD):
    """PGD that notes which rows it is started on."""

    name = "watched"

    log: list[int]

    def init(self, p):
        self.log.extend((p.sample_ids & ((1 << 48) - 1)).tolist())
        return PGD.init(self, p)


def attack(*attacks, **options):
    engine = Engine(MODEL, **options)
    return engine.run(InTurn(attacks=attacks), IMAGES, WRONG)


def test_each_stage_sees_the_rows_that_stand_and_no_other():
    logs = [], [], []
    stages = [Watched(eps=EPS, steps=n, log=log) for n, log in zip((1, 3, 20), logs, strict=True)]
    result = attack(*stages, batch_size=60)
    right = set((WRONG == LABELS).nonzero()[:, 0].tolist())
    assert set(logs[0]) == right
    standing = right
    for number, log in enumerate(logs[1:], 1):
        alone = Engine(MODEL).run(InTurn(attacks=tuple(stages[:number])), IMAGES, WRONG)
        standing = right - set(alone.success.nonzero()[:, 0].tolist())
        assert set(log) == standing
        assert 0 < len(standing) < len(right)
    assert set(result.success.nonzero()[:, 0].tolist()) > right - standing


def test_rows_that_are_wrong_before_are_spared():
    result = attack(FGSM(eps=EPS), PGD(eps=EPS))
    spared = WRONG != LABELS
    assert torch.equal(result.adv[spared], IMAGES[spared])
    assert result.success[spared].all()
    assert not result.clean_correct[spared].any()
    assert (result.queries.backward[spared] == 0).all()
    assert (result.queries.backward[~spared] > 0).all()


def test_a_row_keeps_the_image_of_the_stage_that_broke_it():
    first, second = FGSM(eps=EPS), APGD(eps=EPS, steps=20)
    both = attack(first, second)
    one = attack(first)
    fell = one.success & (WRONG == LABELS)
    assert 0 < fell.sum() < 60
    assert torch.equal(both.adv[fell], one.adv[fell])
    rest = (~one.success).nonzero()[:, 0]
    alone = Engine(MODEL).run(second, IMAGES[rest], WRONG[rest], sample_ids=rest)
    assert torch.equal(both.success[rest], alone.success)
    torch.testing.assert_close(both.adv[rest][alone.success], alone.adv[alone.success])


@pytest.mark.parametrize("compaction", [True, False])
@pytest.mark.parametrize("batch_size", [60, 7])
def test_rows_do_not_know_each_other(batch_size, compaction):
    stages = APGD(eps=EPS, steps=5), APGD(eps=EPS, loss="targeted_dlr", num_targets=4, steps=5)
    whole = attack(*stages)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    engine = Engine(MODEL, batch_size=batch_size, compaction=compaction)
    mixed = engine.run(InTurn(attacks=stages), IMAGES[order], WRONG[order], sample_ids=order)
    assert torch.equal(mixed.success, whole.success[order])
    torch.testing.assert_close(mixed.adv, whole.adv[order], rtol=0, atol=1e-12)


def test_evidence_says_what_each_stage_added():
    seen = []
    cascade = InTurn(attacks=(FGSM(eps=EPS / 2), APGD(eps=EPS, steps=20)), seen=seen)
    result = Engine(MODEL, batch_size=60).run(cascade, IMAGES, WRONG)
    (evidence,) = seen
    broken = result.success & (WRONG == LABELS)
    assert evidence.rows == 60
    assert sum(evidence.fell) == evidence.fallen == int(broken.sum())
    assert all(number > 0 for number in evidence.fell)
    assert (evidence.undriven, evidence.non_finite) == (0, 0)


def test_a_second_opinion_attacks_what_stands():
    log: list[int] = []
    more = (Watched(eps=0.3, steps=10, log=log),)
    cascade = InTurn(attacks=(FGSM(eps=EPS),), more=more)
    result = Engine(MODEL, batch_size=60).run(cascade, IMAGES, WRONG)
    first = attack(FGSM(eps=EPS))
    assert sorted(log) == (~first.success).nonzero()[:, 0].tolist()
    assert result.success.sum() > first.success.sum()


def test_the_plan_is_that_of_all_stages():
    stages = FGSM(eps=EPS), APGD(eps=EPS, steps=20)
    assert sum(times for _, times in InTurn(attacks=stages).plan()) == 21
