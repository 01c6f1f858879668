"""Our attacks beside those of other libraries: equal steps, what each came to.

One table says what both sides are asked to do. `make.py` stores what the peers came to in
`peers.json`; the tests run ours, and the peers too where they are installed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from golden.libraries import CALLERS, PACKAGES
from golden.network import digits, stored_network
from torch import Tensor, nn

from deitsec.attacks import create_attack
from deitsec.engine import Engine

ROWS = 300
SEEDS = 4
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An attack of another library.

    Attributes:
        library: as it is imported.
        attack: as the library calls it.
        options: beside the radius.
        batch: rows in a call, where its draws are those of a whole batch; None takes all.
    """

    library: str
    attack: str
    options: dict[str, Any]
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One of our attacks, and its peers.

    Attributes:
        attack: our name of it.
        eps: the radius that all of them stay in; None asks for the nearest image.
        options: ours, beside the radius.
        peers: the others.
        targeted: whether all aim at the class after the label.
        channels: of the images; the network sees their mean.
        num_rows: how many images; fewer where a peer is slow.
        seeds: runs that figures are the mean of; one, where success hangs on few draws, is luck.
    """

    attack: str
    eps: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    peers: tuple[Peer, ...]
    targeted: bool = False
    channels: int = 1
    seeds: int = 1
    num_rows: int = ROWS

    @property
    def norm(self) -> str:
        """In which distances are measured."""
        return create_attack(self.attack).traits.norm


def torchattacks(attack: str, batch: int | None = None, **options: Any) -> Peer:
    return Peer(library="torchattacks", attack=attack, options=options, batch=batch)


def foolbox(attack: str, **options: Any) -> Peer:
    return Peer(library="foolbox", attack=attack, options=options)


def art(attack: str, **options: Any) -> Peer:
    return Peer(library="art", attack=attack, options=options)


def autoattack(attack: str, **options: Any) -> Peer:
    return Peer(library="pyautoattack", attack=attack, options=options)


def _pgd() -> dict[str, Comparison]:
    steps = 20
    found = {}
    for attack, eps, alpha, norm in (
        ("pgd", 0.08, 0.02, "inf"),
        ("pgd_l2", 0.6, 0.075, 2),
        ("pgd_l1", 2.5, 0.3, 1),
    ):
        name = {"pgd": "Linf", "pgd_l2": "L2", "pgd_l1": "L1"}[attack]
        once = {"abs_stepsize": alpha, "steps": steps, "random_start": True}
        others = [
            foolbox(f"{name}ProjectedGradientDescentAttack", **once),
            art(
                "ProjectedGradientDescent",
                norm=norm,
                eps_step=alpha,
                max_iter=steps,
                num_random_init=1,
                batch_size=ROWS,
            ),
        ]
        if attack == "pgd_l1":
            others.append(foolbox("SparseL1DescentAttack", quantile=0.95, **once))
        else:
            theirs = {"pgd": "PGD", "pgd_l2": "PGDL2"}[attack]
            others.append(torchattacks(theirs, alpha=alpha, steps=steps, random_start=True))
        found[attack] = Comparison(
            attack=attack,
            eps=eps,
            options={"alpha": alpha, "steps": steps},
            peers=tuple(others),
            seeds=SEEDS,
        )
    return found


def _transfer() -> dict[str, Comparison]:
    alpha, steps = 0.02, 8
    ours = {"alpha": alpha, "steps": steps}
    window = {"kernel_size": 3, "sigma": 1 / 3, "diversity_prob": 0.5}
    own = {
        "rfgsm": ("RFGSM", {"noise": alpha / 2, "alpha": alpha / 2}, {"alpha": alpha / 2}),
        "nifgsm": ("NIFGSM", {}, {}),
        "sinifgsm": ("SINIFGSM", {"scales": 5}, {"m": 5}),
        "difgsm": ("DIFGSM", {"diversity_prob": 0.5}, {"diversity_prob": 0.5, "batch": 2}),
        "tifgsm": ("TIFGSM", window, {"len_kernel": 3, "diversity_prob": 0.5, "batch": 2}),
        "vmifgsm": ("VMIFGSM", {"neighbours": 5}, {"N": 5}),
    }
    return {
        name: Comparison(
            attack=name,
            eps=0.08,
            options=ours | mine,
            peers=(torchattacks(attack, **(ours | theirs)),),
            seeds=SEEDS,
            channels=3 if name == "tifgsm" else 1,  # torchattacks' takes three for granted
        )
        for name, (attack, mine, theirs) in own.items()
    }


def _apgd() -> dict[str, Comparison]:
    steps, found = 50, {}
    radii = {"apgd": 0.08, "apgd_l2": 0.6, "apgd_l1": 2.5}
    for attack, eps in radii.items():
        norm = {"apgd": "Linf", "apgd_l2": "L2", "apgd_l1": "L1"}[attack]
        their_norm = {"Linf": "inf", "L2": 2, "L1": 1}[norm]
        official = {"norm": norm, "n_iter": steps, "seed": 0, "use_largereps": norm == "L1"}
        for loss, art_loss in (("ce", "cross_entropy"), ("dlr", "difference_logits_ratio")):
            others = [autoattack("APGDAttack", loss=loss, **official)]
            if norm != "L1":
                others.append(torchattacks("APGD", norm=norm, steps=steps, loss=loss, seed=0))
            others.append(
                art(
                    "AutoProjectedGradientDescent",
                    norm=their_norm,
                    eps_step=2 * eps,
                    max_iter=steps,
                    nb_random_init=1,
                    loss_type=art_loss,
                    batch_size=ROWS,
                )
            )
            found[f"{attack} {loss}"] = Comparison(
                attack=attack,
                eps=eps,
                options={"loss": loss, "steps": steps},
                peers=tuple(others),
                seeds=SEEDS,
            )
        others = [autoattack("APGDAttack_targeted", n_target_classes=9, **official)]
        if norm != "L1":
            others.append(torchattacks("APGDT", norm=norm, steps=steps, n_classes=10, seed=0))
        found[f"{attack} targeted_dlr"] = Comparison(
            attack=attack,
            eps=eps,
            options={"loss": "targeted_dlr", "num_targets": 9, "steps": steps},
            peers=tuple(others),
            num_rows=150,
        )
    return found


def _scores() -> dict[str, Comparison]:
    queries, found = 300, {}
    for attack, eps, norm in (
        ("square", 0.1, "Linf"),
        ("square_l2", 0.9, "L2"),
        ("square_l1", 5.0, "L1"),
    ):
        # theirs do not count the query of the start
        once = {"norm": norm, "n_queries": queries - 1, "resc_schedule": True, "seed": 0}
        others = [autoattack("SquareAttack", p_init=0.8, **once)]
        if norm != "L1":
            others.append(torchattacks("Square", p_init=0.8, **once))
            others.append(
                art(
                    "SquareAttack",
                    norm={"Linf": "inf", "L2": 2}[norm],
                    max_iter=queries - 1,
                    p_init=0.8,
                    batch_size=ROWS,
                )
            )
        found[attack] = Comparison(
            attack=attack,
            eps=eps,
            options={"n_queries": queries, "rescale_schedule": True},
            peers=tuple(others),
            seeds=2,
        )
    estimate = {"delta": 0.01, "lr": 0.01}
    found["spsa"] = Comparison(
        attack="spsa",
        eps=0.1,
        options={"steps": 15, "samples": 32} | estimate,
        num_rows=200,
        peers=(torchattacks("SPSA", nb_iter=15, nb_sample=32, max_batch_size=32, **estimate),),
    )
    return found


def _nearest() -> dict[str, Comparison]:
    cw = {"steps": 200, "search_steps": 5}
    searches = {"binary_search_steps": 5, "batch_size": ROWS}
    deepfool = {"steps": 50, "overshoot": 0.02}
    found = {
        "cw": Comparison(
            attack="cw",
            options=cw | {"initial_const": 0.1},
            num_rows=100,
            peers=(
                foolbox(
                    "L2CarliniWagnerAttack", binary_search_steps=5, initial_const=0.1, steps=200
                ),
                torchattacks("CW", steps=1000, c=1),
                # each of its iterations asks about several step sizes
                art("CarliniL2Method", initial_const=0.1, max_iter=20, **searches),
            ),
        ),
        "cw_linf": Comparison(
            attack="cw_linf",
            options={"steps": 50, "initial_const": 0.1, "lr": 0.01},
            num_rows=30,
            peers=(art("CarliniLInfMethod", max_iter=50, initial_const=0.1, batch_size=ROWS),),
        ),
        "deepfool": Comparison(
            attack="deepfool",
            options=deepfool,
            peers=(
                foolbox("L2DeepFoolAttack", candidates=10, **deepfool),
                torchattacks("DeepFool", **deepfool),
                art("DeepFool", max_iter=50, epsilon=0.02, nb_grads=10, batch_size=ROWS),
            ),
        ),
        "deepfool_linf": Comparison(
            attack="deepfool_linf",
            options=deepfool,
            peers=(foolbox("LinfDeepFoolAttack", candidates=10, **deepfool),),
        ),
        "ddn": Comparison(
            attack="ddn", options={"steps": 60}, peers=(foolbox("DDNAttack", steps=60),)
        ),
    }
    norms = {"fmn": "L2", "fmn_linf": "LInf", "fmn_l1": "L1", "fmn_l0": "L0"}
    for attack, norm in norms.items():
        found[attack] = Comparison(
            attack=attack,
            options={"steps": 60},
            peers=(foolbox(f"{norm}FMNAttack", steps=60),),
        )
    return found


def _fab() -> dict[str, Comparison]:
    steps, found = 40, {}
    # their radius is where a success stops counting, and ours counts at any
    for attack, norm, far in (
        ("fab", "Linf", 1.0),
        ("fab_l2", "L2", 8.0),
        ("fab_l1", "L1", 64.0),
    ):
        official = {"norm": norm, "n_iter": steps, "seed": 0}
        others = [autoattack("FABAttack_PT", eps=far, **official)]
        one_by_one = [autoattack("FABAttack_PT", eps=far, targeted=True, **official)]
        if norm != "L1":  # torchattacks' fails before the first step
            once = {"norm": norm, "eps": far, "steps": steps, "n_classes": 10}
            others.append(torchattacks("FAB", **once))
            one_by_one.append(torchattacks("FAB", multi_targeted=True, **once))
        found[attack] = Comparison(attack=attack, options={"steps": steps}, peers=tuple(others))
        # a row that fell by one target is not aimed at the next in theirs
        found[f"{attack} targeted"] = Comparison(
            attack=attack,
            options={"steps": steps, "num_targets": 1},
            peers=tuple(one_by_one),
            num_rows=100,
        )
    return found


def _others() -> dict[str, Comparison]:
    jsma = {"theta": 1.0, "gamma": 0.2, "round_up": True, "skip_saturated": True}
    return {
        "jsma": Comparison(
            attack="jsma",
            options=jsma,
            peers=(torchattacks("JSMA", theta=1.0, gamma=0.2),),
            targeted=True,
        ),
        "jsma, features of the target alone": Comparison(
            attack="jsma",
            options=jsma,
            peers=(art("SaliencyMapMethod", theta=1.0, gamma=0.2, batch_size=ROWS),),
            targeted=True,
        ),
        "hopskipjump": Comparison(
            attack="hopskipjump",
            options={"max_queries": 900},
            num_rows=100,
            peers=(
                foolbox("HopSkipJumpAttack", steps=5, constraint="l2"),
                art("HopSkipJump", norm=2, max_iter=5),
            ),
        ),
        "hopskipjump_linf": Comparison(
            attack="hopskipjump_linf",
            options={"max_queries": 900},
            num_rows=100,
            peers=(
                foolbox("HopSkipJumpAttack", steps=5, constraint="linf"),
                art("HopSkipJump", norm="inf", max_iter=5),
            ),
        ),
    }


COMPARISONS: dict[str, Comparison] = {
    **_pgd(), **_transfer(), **_apgd(), **_scores(), **_nearest(), **_fab(), **_others()
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What an attack came to.

    Attributes:
        success: share of the rows that fell, inside of box and ball.
        distance: median over those, in the norm of the attack; NaN where none fell.
        queries: images of a row that the model was shown, on average.
    """

    success: float
    distance: float
    queries: float


class _Shown(nn.Module):
    """The network on the mean of the channels; counts the images that it is shown."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.count = network, 0

    def forward(self, images: Tensor) -> Tensor:
        self.count += len(images)
        return self.network(images.float().mean(1, keepdim=True))


def rows(channels: int = 1, num_rows: int = ROWS) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and images and labels that it knows and was not trained on."""
    network = stored_network()
    images, labels = (part[1000:] for part in digits())
    with torch.no_grad():
        known = network(images).argmax(1) == labels
    images, labels = images[known][:num_rows], labels[known][:num_rows]
    return _Shown(network).eval(), images.repeat(1, channels, 1, 1), labels


def figures(comparison: Comparison, peer: Peer | None) -> Figures:
    """Run a peer, or ours for None, on the rows."""
    runs = [_run(comparison, peer, seed) for seed in range(comparison.seeds)]
    return Figures(
        **{
            part.name: sum(getattr(run, part.name) for run in runs) / len(runs)
            for part in fields(Figures)
        }
    )


def _run(comparison: Comparison, peer: Peer | None, seed: int) -> Figures:
    model, images, labels = rows(comparison.channels, comparison.num_rows)
    classes = (labels + 1) % 10 if comparison.targeted else labels
    torch.manual_seed(seed)
    np.random.seed(seed)  # ART draws from it
    if peer:
        adv = _theirs(comparison, peer, model, images, classes, seed)
        queries = model.count / len(images)
    else:
        adv, queries = _ours(comparison, model, images, labels, classes, seed)
    with torch.no_grad():
        adv = adv.float()
        answers = model(adv).argmax(1)
    fell = (answers == classes) if comparison.targeted else (answers != labels)
    change = (adv - images).flatten(1)
    distance = torch.linalg.vector_norm(change, ORDERS[comparison.norm], dim=1)
    inside = (adv >= -1e-6).flatten(1).all(1) & (adv <= 1 + 1e-6).flatten(1).all(1)
    if comparison.eps is not None:
        inside &= distance <= comparison.eps * (1 + 1e-4)
    fell &= inside & (adv != 0).flatten(1).any(1)  # zeros: what foolbox gives where it failed
    return Figures(
        success=fell.double().mean().item(),
        distance=distance[fell].median().item() if fell.any() else float("nan"),
        queries=queries,
    )


def _theirs(comparison, peer, model, images, classes, seed):
    size = peer.batch or len(images)
    call = CALLERS[peer.library]
    options = peer.options | ({"seed": seed} if "seed" in peer.options else {})
    return torch.cat(
        [
            call(model, peer.attack, options, comparison.eps, *part, comparison.targeted)
            for part in zip(images.split(size), classes.split(size), strict=True)
        ]
    ).detach()


def _ours(comparison, model, images, labels, classes, seed):
    radius = {} if comparison.eps is None else {"eps": comparison.eps}
    attack = create_attack(comparison.attack, **radius, **comparison.options)
    targets = classes if comparison.targeted else None
    result = Engine(model, seed=seed).run(attack, images, labels, targets=targets)
    return result.adv, result.queries.forward.double().mean().item()


def asked(comparison: Comparison) -> dict[str, Any]:
    """What both sides are asked to do, as JSON has it."""
    what = asdict(comparison)
    what["peers"] = [dict(peer) for peer in what["peers"]]
    return what


def entry(comparison: Comparison, found: Sequence[Figures]) -> dict[str, Any]:
    """What is stored of a comparison: what was asked, and what each peer came to."""
    what = asked(comparison)
    for peer, figures_of_it in zip(what["peers"], found, strict=True):
        peer["version"] = version(PACKAGES[peer["library"]])
        peer["success"] = round(figures_of_it.success, 6)
        peer["queries"] = round(figures_of_it.queries, 1)
        if comparison.eps is None:  # within a radius, distance tells nothing
            peer["distance"] = round(figures_of_it.distance, 6)
    return what
