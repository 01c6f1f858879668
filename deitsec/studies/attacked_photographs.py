"""Attacks on photographs side by side: what each makes a classifier say, how surely, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from deitsec.attacks import Attack, format_spec
from deitsec.engine import AttackResult, Engine
from deitsec.interpretation import saliency
from deitsec.report.figure import ATTACKED, INK, new_figure
from deitsec.report.wording import percent, shown_name
from deitsec.studies.photographs import Subject
from deitsec.studies.picture import changed, packed, packed_change, unpacked
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

_LOOKS_SIDE = 56  # pixels of a stored map
_MIDDLE = 128


def attack_photographs(
    run: StudyRun[Any], subject: Subject, attacks: Mapping[str, Attack], *, looks: bool = True
) -> dict[str, Any]:
    """Run each attack to the highest loss within its radius, on images of 8 bits.

    Args:
        run: of a study.
        subject: what is attacked.
        attacks: by the name that the page gives them.
        looks: whether to map where the classifier looks.

    Returns:
        Plain values: of each attack its error, confidence and success; and as pictures one crop
        that is right before, and of a whole photograph where there are such: of those that most
        attacks fool, the one of most contrast.
    """
    engine = Engine(subject.model, seed=run.seed, stop="never", quantize=True)
    results: dict[str, AttackResult] = {}
    for name, attack in attacks.items():
        told = run.rows(f"{name} on photographs")
        results[name] = engine.run(attack, subject.images, subject.labels, progress=told)
    return {
        "subject": dict(subject.facts),
        "attacks": [
            {"name": name, "spec": format_spec(attacks[name]), **outcome(result)}
            for name, result in results.items()
        ],
        "example": _example(subject, results, looks),
    }


def outcome(result: AttackResult) -> dict[str, Any]:
    """Plain values of a result: error, success, and the confidence in wrong answers.

    `error` is of all rows; `success` of the rows that did not satisfy the goal before; `confidence`
    is the mean softmax of the class that wins where it is a wrong one, None where there is none.
    """
    surest = result.logits.double().softmax(1).amax(1)
    wrong = result.logits.argmax(1) != result.labels
    rate = result.success_rate
    return {
        "rows": len(wrong),
        "clean_error": 1 - result.clean_correct.double().mean().item(),
        "error": wrong.double().mean().item(),
        "success": None if rate != rate else rate,
        "confidence": surest[wrong].mean().item() if bool(wrong.any()) else None,
    }


def outcome_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Outcomes by the name of their row."""
    head = ("", "error, clean", "error, attacked", "reaches its goal", "confidence when wrong")
    return table(
        head,
        [
            [
                name,
                share(found["clean_error"], 1),
                share(found["error"], 1),
                share(found["success"], 1),
                "-" if found["confidence"] is None else share(found["confidence"], 1),
            ]
            for name, found in rows
        ],
    )


def _example(subject: Subject, results: Mapping[str, AttackResult], looks: bool) -> dict[str, Any]:
    """The pictures of one crop."""
    fooled = torch.stack([r.logits.argmax(1) != r.labels for r in results.values()]).sum(0)
    first = next(iter(results.values()))
    contrast = subject.images.double().flatten(1).std(1, correction=0)  # at most 1/2
    shown = first.clean_correct
    if subject.whole is not None:
        shown = shown & torch.isin(torch.arange(len(shown)), torch.tensor(subject.whole))
    row = int(torch.where(shown, fooled + contrast, -1.0).argmax())
    clean = subject.images[row]
    before = first.clean_logits[row]
    cells = [_cell(subject, "clean", clean, clean, before, looks)]
    cells += [
        _cell(subject, name, clean, result.adv[row], result.logits[row], looks)
        for name, result in results.items()
    ]
    label = subject.class_names[int(subject.labels[row])]
    return {"row": row, "label": label, "clean": packed(clean), "cells": cells}


def _cell(
    subject: Subject, name: str, clean: Tensor, image: Tensor, logits: Tensor, looks: bool
) -> dict[str, Any]:
    predicted = int(logits.argmax())
    found: dict[str, Any] = {
        "name": name,
        "answer": subject.class_names[predicted],
        "confidence": logits.double().softmax(0)[predicted].item(),
        "change": packed_change(clean, image),
    }
    if looks:
        maps = saliency(subject.model, image[None].float(), logits.argmax()[None].cpu())
        size = max(1, maps.shape[-1] // _LOOKS_SIDE)
        small = avg_pool2d(maps[:, None], size)[0]
        found["looks"] = packed(small / small.amax().clamp_min(1e-12))
    return found


def attack_strip(example: Mapping[str, Any]) -> Any:
    """Draw a crop under each attack: the image, the change, and where the classifier looks."""
    cells = example["cells"]
    clean = unpacked(example["clean"])
    rows = 3 if "looks" in cells[0] else 2
    figure = new_figure(1.32 * rows + 0.35, width=1.25 * len(cells))
    places = figure.subplots(rows, len(cells), squeeze=False)
    for column, cell in enumerate(cells):
        change = unpacked(cell["change"])
        _draw(places[0, column], changed(clean, change))
        largest = int(abs(change.astype(int) - _MIDDLE).max())
        shown = change if not largest else _amplified(change, largest)
        _draw(places[1, column], shown)
        right = cell["answer"] == example["label"]
        answer = f"{'✓' if right else '✗'} {shown_name(cell['answer'], 12)}"
        caption = f"{answer}, {percent(cell['confidence'], 1)}"
        places[0, column].set_title(cell["name"], fontsize=8)
        places[0, column].set_xlabel(caption, fontsize=7.5, color=INK if right else ATTACKED)
        places[1, column].set_xlabel(f"at most {largest} of 255", fontsize=7.5)
        if rows == 3:
            places[2, column].imshow(unpacked(cell["looks"])[:, :, 0], cmap="inferno")
            places[2, column].set(xticks=[], yticks=[])
    for row, name in enumerate(("image", "change, amplified", "where it looks")[:rows]):
        places[row, 0].set_ylabel(name, fontsize=8)
    return figure


def _amplified(change: Any, largest: int) -> Any:
    import numpy as np

    scale = (_MIDDLE - 1) / largest
    return np.clip(_MIDDLE + scale * (change.astype(float) - _MIDDLE), 0, 255).astype(np.uint8)


def _draw(axis: Any, picture: Any) -> None:
    grey = picture.shape[2] == 1
    axis.imshow(picture[:, :, 0] if grey else picture, cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
