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
ENCODINGS: Mapping[str, type[Evolution] | type[EvolutionCPPN]] = {
    "evolution, direct": Evolution,
    "evolution, CPPN": EvolutionCPPN,
}
_ELITES = ", MAP-Elites"
# Nguyen et al., arXiv:1412.1897: evolved for LeNet on MNIST, which is this sure of them
PUBLISHED = 0.9999


def measure_fooling(
    run: StudyRun[Any],
    model: nn.Module,
    others: Mapping[str, nn.Module],
    *,
    generations: Sequence[int],
    steps: int,
) -> dict[str, Any]:
    """Craft an image of each class from noise, by each method.

    Args:
        run: of a study.
        model: (B, C, H, W) -> (B, K) logits.
        others: models by name that are fooled by direct evolution alone, to tell what hangs on the
            model.
        generations: of the evolutions, at most: one run for each number, the last is shown.
        steps: of the gradient descent, at most.
    """
    attacks: list[tuple[str, int | None, Attack]] = [
        ("gradient", None, Fooling(steps=steps, confidence=CONFIDENCE))
    ]
    for name, kind in ENCODINGS.items():
        attacks += [
            (name, number, kind(generations=number, confidence=CONFIDENCE))
            for number in generations
        ]
        most = kind(generations=generations[-1], confidence=CONFIDENCE, map_elites=True)
        attacks.append((f"{name}{_ELITES}", generations[-1], most))
    methods = [
        run.part(
            f"fooling-{format_name(name)}-{number or steps}",
            partial(_crafted, run, model, name, number, attack),
        )
        for name, number, attack in attacks
    ]
    name, kind = next(iter(ENCODINGS.items()))
    attack = kind(generations=generations[-1], confidence=CONFIDENCE)
    elsewhere = {
        other: run.part(
            f"fooling-{format_name(name)}-of-{other}",
            partial(_crafted, run, network, name, generations[-1], attack),
        )
        for other, network in others.items()
    }
    return {"methods": methods, "elsewhere": elsewhere}


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
            "A frame marks a class that was not reached; ME stands for MAP-Elites.",
            "![fooling images](figure:nothing)",
        ]
    )


def _generations(found: Mapping[str, Any]) -> str:
    """What more generations, the paper's way of breeding and another model did."""
    said = [_bred(found, name) for name in ENCODINGS]
    said.append(_archives(found))
    for other, one in found["elsewhere"].items():
        said.append(
            f"On {other} {one['name']} reaches {one['fooled']} of {one['classes']} classes in at "
            f"most {one['generations']} generations, its median confidence "
            f"{share(float(np.median(one['confidence'])))}."
        )
    missed = [one for one in shown_methods(found) if one["fooled"] < one["classes"]]
    said += [_left(found, missed)] if missed else []
    return " ".join(said)


def _bred(found: Mapping[str, Any], name: str) -> str:
    """One encoding, by generations and by who breeds with whom."""
    own = [one for one in found["methods"] if one["name"] == name]
    elites = {one["name"]: one for one in found["methods"]}[f"{name}{_ELITES}"]
    first, last = own[0], own[-1]
    sure = [float(np.median(one["confidence"])) for one in (first, last, elites)]
    words = ""
    if len(own) > 1:
        words = (
            f"{last['generations']} generations in the place of {first['generations']} bring "
            f"{name} from {first['fooled']} to {last['fooled']} of {last['classes']} classes, "
            f"and its median confidence from {share(sure[0])} to {share(sure[1])}. "
        )
    return words + (
        f"Where champions of all classes breed side by side and take over from each other "
        f"(MAP-Elites), {name} reaches {elites['fooled']} of {last['classes']} in as many "
        f"generations, its median confidence {share(sure[2])}; where each class breeds by itself, "
        f"{last['fooled']}."
    )


def _archives(found: Mapping[str, Any]) -> str:
    """What our MAP-Elites has less of than the paper's."""
    return (
        "The paper breeds by MAP-Elites too, in one archive of champions for all classes. Here "
        f"each of the {found['methods'][0]['classes']} images asked for has an archive of its own, "
        "so that rows do not hang on each other: of as many questions in all, an archive gets one "
        f"in {found['methods'][0]['classes']} of the children that one for all would get."
    )


def _left(found: Mapping[str, Any], missed: Sequence[Mapping[str, Any]]) -> str:
    words = f"Classes are left to {'; '.join(one['name'] for one in missed)}."
    direct = next(iter(ENCODINGS))
    of_name = {one["name"]: one for one in missed}
    plain, elites = of_name.get(direct), of_name.get(f"{direct}{_ELITES}")
    others = found["elsewhere"]
    if plain is None or elites is None or elites["fooled"] > plain["fooled"] or not others:
        return words
    all_of = [name for name, one in others.items() if one["fooled"] == one["classes"]]
    if not all_of:
        return f"{words} No other model that was tried is fooled in every class: see above."
    return (
        f"{words} The direct encoding misses some either way, and none on {joined(all_of)}: it "
        "hangs on the model that is to be fooled, and archives of their own do not mend it."
    )


def shown_methods(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Each method once, with its most generations."""
    return list({one["name"]: one for one in found["methods"]}.values())


def _title(name: str) -> str:
    """A method's name, as short as a picture's title is."""
    return name.removeprefix("evolution, ").replace(_ELITES, " ME")


def fooling_figure(found: Mapping[str, Any], class_names: list[str]) -> Any:
    """The images, a row a method, a column a class."""
    methods = shown_methods(found)
    return image_matrix(
        [[unpacked(text) for text in one["images"]] for one in methods],
        rows=[_title(one["name"]) for one in methods],
        columns=class_names,
        column_name="what the model sees in it",
        marked=np.array([[c < CONFIDENCE for c in one["confidence"]] for one in methods]),
    )
