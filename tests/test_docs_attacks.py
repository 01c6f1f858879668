"""The page of the attacks tells the truth about the registry."""

from pathlib import Path

import pytest

from deitsec.attacks.registry import ATTACKS

PAGE = Path(__file__).parents[1] / "docs" / "attacks.md"
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
LINES = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]


def test_every_attack_has_one_line_and_no_other_has():
    assert [line.split("`")[1] for line in LINES] == sorted(ATTACKS)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("`")[1])
def test_a_line_says_what_the_traits_say(line):
    _, name, norm, goal, needs, aims, what, _ = (cell.strip() for cell in line.split("|"))
    cls = ATTACKS[name.strip("`")]
    traits = cls.traits
    part = "" if traits.part == "logits" else f", {traits.part}"
    assert (norm, goal, needs) == (_NORMS[traits.norm], traits.goal, traits.needs + part)
    assert aims == ("must" if not traits.untargeted else "can" if traits.targeted else "no")
    assert what == (cls.__doc__ or "").strip().splitlines()[0]
