"""Fooling images: no digit to anybody, and a model is sure of them; by gradient and evolution."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from deitsec.attacks import Attack, Evolution, EvolutionCPPN, Fooling, format_spec
from deitsec.engine import fooling_images
from deitsec.report.image_matrix import image_matrix
from deitsec.report.wording import joined
from deitsec.studies.picture import packed, unpacked
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

CONFIDENCE = 0.99
# Nguyen et al., arXiv:1412.1897: evolved for LeNet on MNIST, which is this sure of them
PUBLISHED = 0.9999


def measure_fooling(
    run: StudyRun[Any], model: nn.Module, *, generations: Sequence[int], steps: int
) -> dict[str, Any]:
    """Craft an image of each class from noise, by each method.

    Args:
        run: of a study.
        model: (B, C, H, W) -> (B, K) logits.
        generations: of the evolutions, at most: one run for each number, the last is shown.
        steps: of the gradient descent, at most.
    """
    attacks: list[tuple[str, int | None, Attack]] = [
        ("gradient", None, Fooling(steps=steps, confidence=CONFIDENCE))
    ]
    for name, kind in (("evolution, direct", Evolution), ("evolution, CPPN", EvolutionCPPN)):
        attacks += [
            (name, number, kind(generations=number, confidence=CONFIDENCE))
            for number in generations
        ]
    methods = [
        run.part(
            f"fooling-{format_name(name)}-{number or steps}",
            partial(_crafted, run, model, name, number, attack),
        )
        for name, number, attack in attacks
    ]
    return {"methods": methods}


def format_name(name: str) -> str:
    """A method's name as part of a file's."""
    return name.replace(", ", "-")


def _crafted(
    run: StudyRun[Any], model: nn.Module, name: str, generations: int | None, attack: Attack
) -> dict[str, Any]:
    result = fooling_images(
        model,
        image_shape=run.data.test.shape,
        attack=attack,
        seed=run.seed,
        progress=run.rows(f"fooling images by {name}"),
    )
    assert result.targets is not None
    surest = result.logits.double().softmax(1).gather(1, result.targets[:, None])[:, 0]
    queries = result.queries.forward[result.success].double()
    return {
        "name": name,
        "generations": generations,
        "spec": format_spec(attack),
        "classes": len(surest),
        "fooled": int(result.success.sum()),
        "confidence": surest.tolist(),
        "queries": queries.median().item() if len(queries) else None,
        "images": [packed(image) for image in result.adv],
    }


def fooling_section(found: Mapping[str, Any]) -> str:
    """How many classes each method reaches, and the figure `nothing`."""
    rows = [
        [
            f"{one['name']} `{one['spec']}`",
            f"{one['fooled']} of {one['classes']}",
            share(float(np.median(one["confidence"])), 2),
            "-" if one["queries"] is None else f"{one['queries']:.0f}",
        ]
        for one in found["methods"]
    ]
    head = (
        "method",
        f"classes at {share(CONFIDENCE, 0)}",
        "median confidence",
        "median queries where reached",
    )
    return "\n\n".join(
        [
            table(head, rows),
            f"Each stops at {share(CONFIDENCE, 0)}. Nguyen et al. report "
            f"{share(PUBLISHED)} for images evolved on, for LeNet on MNIST.",
            _generations(found),
            "A frame marks a class that was not reached.",
            "![fooling images](figure:nothing)",
        ]
    )


def _generations(found: Mapping[str, Any]) -> str:
    """What more generations did, and what is known to differ where classes were missed."""
    said: list[str] = []
    missed: list[str] = []
    for name in dict.fromkeys(one["name"] for one in found["methods"]):
        own = [one for one in found["methods"] if one["name"] == name and one["generations"]]
        if not own:
            continue
        first, last = own[0], own[-1]
        if len(own) > 1:
            sure = [float(np.median(one["confidence"])) for one in (first, last)]
            said.append(
                f"{last['generations']} generations in the place of {first['generations']} bring "
                f"{name} from {first['fooled']} to {last['fooled']} of {last['classes']} classes, "
                f"and its median confidence from {share(sure[0])} to {share(sure[1])}."
            )
        if last["fooled"] < last["classes"]:
            missed.append(name)
    if missed:
        said.append(
            f"Classes are left to {joined(missed)}. What differs from the paper: it breeds for "
            "all classes side by side, and an image that does well for another class takes over "
            "there (MAP-Elites), while here no class knows another. That this is the reason was "
            "not measured."
        )
    return " ".join(said)


def shown_methods(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Each method once, with its most generations."""
    return list({one["name"]: one for one in found["methods"]}.values())


def fooling_figure(found: Mapping[str, Any], class_names: list[str]) -> Any:
    """The images, a row a method, a column a class."""
    methods = shown_methods(found)
    return image_matrix(
        [[unpacked(text) for text in one["images"]] for one in methods],
        rows=[one["name"].removeprefix("evolution, ") for one in methods],
        columns=class_names,
        column_name="what the model sees in it",
        marked=np.array([[c < CONFIDENCE for c in one["confidence"]] for one in methods]),
    )
