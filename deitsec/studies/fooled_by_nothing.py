"""Images of nothing that a model is sure of, by gradient and by evolution."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from deitsec.attacks import Attack, Evolution, EvolutionCPPN, Fooling, format_spec
from deitsec.engine import fooling_images
from deitsec.report.image_matrix import image_matrix
from deitsec.studies.picture import packed, unpacked
from deitsec.studies.study import StudyRun
from deitsec.studies.tables import share, table

CONFIDENCE = 0.99
# Nguyen et al., arXiv:1412.1897: evolved for LeNet on MNIST, which is this sure of them
PUBLISHED = 0.9999


def measure_fooling(
    run: StudyRun[Any], model: nn.Module, *, generations: int, steps: int
) -> dict[str, Any]:
    """Craft an image of each class from noise, by each method.

    Args:
        run: of a study.
        model: (B, C, H, W) -> (B, K) logits.
        generations: of the evolutions, at most.
        steps: of the gradient descent, at most.
    """
    attacks: Mapping[str, Attack] = {
        "gradient": Fooling(steps=steps, confidence=CONFIDENCE),
        "evolution, direct": Evolution(generations=generations, confidence=CONFIDENCE),
        "evolution, CPPN": EvolutionCPPN(generations=generations, confidence=CONFIDENCE),
    }
    methods: list[dict[str, Any]] = []
    for name, attack in attacks.items():
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
        methods.append(
            {
                "name": name,
                "spec": format_spec(attack),
                "classes": len(surest),
                "fooled": int(result.success.sum()),
                "confidence": surest.tolist(),
                "queries": queries.median().item() if len(queries) else None,
                "images": [packed(image) for image in result.adv],
            }
        )
    return {"methods": methods}


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
    head = ("method", f"classes at {share(CONFIDENCE, 0)}", "median confidence", "median questions")
    return "\n\n".join(
        [
            table(head, rows),
            f"Each stops at {share(CONFIDENCE, 0)}. Nguyen et al. report {share(PUBLISHED)} for "
            "images evolved on, for LeNet on MNIST. A frame marks a class that was not reached; "
            "with more generations it may be.",
            "![images of nothing](figure:nothing)",
        ]
    )


def fooling_figure(found: Mapping[str, Any], class_names: list[str]) -> Any:
    """The images, a row a method, a column a class."""
    methods = found["methods"]
    return image_matrix(
        [[unpacked(text) for text in one["images"]] for one in methods],
        rows=[one["name"].removeprefix("evolution, ") for one in methods],
        columns=class_names,
        column_name="what the model sees in it",
        marked=np.array([[c < CONFIDENCE for c in one["confidence"]] for one in methods]),
    )
