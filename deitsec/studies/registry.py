"""Names of the studies, and where each is."""

from difflib import get_close_matches
from importlib import import_module
from typing import Any

from deitsec.studies.study import Study

# name of the command: what it shows and what the whole form costs, in a line
STUDIES: dict[str, str] = {
    "deit-fgsm": (
        "a DeiT's weights extracted, FGSM, PGD and C&W into shards and evaluated from disk, then "
        "the DeiT hardened; two hours and 20 minutes on a crowded machine"
    ),
    "defensive-distillation": (
        "success, robustness and gradients by temperature (Papernot et al. 2016); an hour at 5 "
        "epochs each on a busy core, half an hour a network at the paper's 50"
    ),
    "deit-distillation": (
        "what a DeiT inherits: from scratch, soft, hard, from a robust teacher; about 15 minutes"
    ),
    "detector": (
        "ROC by attack, attacks held out, and the attack on classifier and detector together "
        "(Carlini and Wagner 2017); a reduced form 2 minutes, the whole one not timed"
    ),
    "smoothing": (
        "certified accuracy by radius, and under attacks that know of the noise (Cohen et al. "
        "2019); a reduced form 11 minutes, the whole one not timed"
    ),
    "failed-defenses": (
        "noise, dropout, ensembles, codes, clean-up: attacked plainly, then knowingly (Athalye et "
        "al. 2018); about 28 minutes on a busy machine"
    ),
    "hidden-model": (
        "the substitute attack by queries, and transfer between kinds of models (Papernot et al. "
        "2017); a reduced form 3 minutes, the whole one not timed"
    ),
    "adversarial-training": (
        "five methods under attacks from FGSM to reliable, their cost and learning curves; 11 "
        "minutes at 10 images a class"
    ),
    "advgan": (
        "a generator trained once, its success and speed beside FGSM and PGD (Xiao et al. 2018); "
        "about 20 minutes on a busy machine"
    ),
    "mnist-adversarial": (
        "a dense and a convolutional network for MNIST: FGSM, images crafted from noise and from "
        "other digits, defenses; 18 minutes on one core"
    ),
    "attack-lecture": (
        "a photograph changed with confidence, denial of service and impersonation, and each "
        "prevention with its answer; about 14 minutes on a busy machine"
    ),
    "adversarial-lecture": (
        "from a linear classifier by hand to poisoned training sets: L-BFGS, prints, fooling "
        "images, few labels, other models; about 17 minutes on a busy machine"
    ),
    "poisoning": (
        "flipped labels and backdoors by rate, and who finds them (Gu 2017, Tran 2018, Chen 2018); "
        "a reduced form 3 minutes, the whole one not timed"
    ),
}


def study(name: str) -> Study[Any]:
    """The study of a name.

    Raises:
        ValueError: there is none; the nearest name is given.
    """
    if name not in STUDIES:
        (near,) = get_close_matches(name, STUDIES, n=1, cutoff=0.0)
        raise ValueError(f"unknown study {name!r}: the nearest name is {near!r}")
    return import_module(f"deitsec.studies.{name.replace('-', '_')}").STUDY
