"""The page of the study of randomised smoothing."""

from typing import Any

from deitsec.report.share_curves import share_curves
from deitsec.studies.study import Document, Page
from deitsec.studies.tables import share, table

# The authors' own analysis of ResNet-110 on CIFAR-10, beside their code (locuslab/smoothing,
# analysis/markdown/vary_noise_cifar10).
_PUBLISHED_RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
_PUBLISHED = {
    0.12: (0.59, 0.00, 0.00, 0.00, 0.00, 0.00),
    0.25: (0.60, 0.43, 0.27, 0.00, 0.00, 0.00),
    0.5: (0.55, 0.41, 0.32, 0.23, 0.15, 0.09),
    1.0: (0.39, 0.34, 0.28, 0.22, 0.17, 0.14),
}


def render(document: Document) -> Page:
    """Make the page of a result."""
    found, options = document["found"], document["options"]
    broken = sum(
        point["certified_and_broken"]
        for entry in found["smoothed"]
        for point in entry["attacked"]["points"]
    )
    parts = [
        f"{found['model']} trained under Gaussian noise and smoothed by the same; {found['rows']} "
        f"test images, {options['samples']} noisy copies of each, alpha {options['alpha']:g}. "
        "A certificate holds for every attack of that L2 length, but for its rate of failure; the "
        "attacked share is what the attacks tried here left, an upper bound of the truth.",
        _verdict(broken),
        "## Accuracy",
        _accuracy(found),
        "![certified accuracy against L2 radius, lines; under attack, points]"
        "(figure:certified-accuracy)",
        "## Certified and attacked at the same radii",
        f"PGD in L2, {options['steps']} steps, {options['draws']} noisy copies a step, judged by "
        f"{options['votes']} votes under noise that it had not seen: *SmoothAdv* climbs on the "
        "mean softmax, *EOT* on the mean logits, *left* counts the images that withstood both. "
        "*Certified and broken* counts the certified images that the smoothed classifier, by its "
        "own test of significance, then gives another class. "
        "*Undefended* is the network trained without noise, under the same PGD.",
        _attacked(found),
        "## Published",
        "Certified accuracy of ResNet-110 on CIFAR-10, by the authors: another network on other "
        "data, beside which ours can be read, not compared.",
        _published(),
    ]
    return Page(markdown="\n\n".join(parts), figures={"certified-accuracy": _figure(found)})


def _verdict(broken: int) -> str:
    if broken == 0:
        return "**No image that was certified at a radius was broken within it.**"
    return (
        f"**{broken} images that were certified at a radius were broken within it: more than the "
        "failure rate allows would be an error in the certificate or its code.**"
    )


def _accuracy(found: Any) -> str:
    plain = found["undefended"]
    linf = found["smoothed"][0]["attacked"]["linf"]["eps"]
    rows = [["undefended", share(plain["accuracy"]), "-", "-", "-", "-"]]
    for entry in found["smoothed"]:
        certified, attacked = entry["certified"], entry["attacked"]
        rows.append(
            [
                f"sigma {entry['sigma']:g}",
                share(certified["accuracy_without_noise"]),
                share(certified["accuracy"]),
                share(certified["abstained"]),
                f"{certified['average_certified_radius']:.3f}",
                share(attacked["linf"]["empirical"]),
            ]
        )
    head = (
        "",
        "network, no noise",
        "smoothed, certified",
        "abstained",
        "mean certified radius",
        f"left by PGD, L-infinity {linf:.3g}",
    )
    return table(head, rows)


def _attacked(found: Any) -> str:
    plain = {point["radius"]: point["accuracy"] for point in found["undefended"]["attacked"]}
    rows = [
        [
            f"sigma {entry['sigma']:g}, radius {point['radius']:g}",
            share(point["certified"]),
            share(point["softmax"]),
            share(point["logits"]),
            share(point["empirical"]),
            str(point["certified_and_broken"]),
            share(plain[point["radius"]]),
        ]
        for entry in found["smoothed"]
        for point in entry["attacked"]["points"]
    ]
    head = ("", "certified", "SmoothAdv", "EOT", "left", "certified and broken", "undefended")
    return table(head, rows)


def _published() -> str:
    head = ("", *(f"radius {radius:g}" for radius in _PUBLISHED_RADII))
    rows = [
        [f"sigma {sigma:g}", *(f"{value:.2f}" for value in values)]
        for sigma, values in _PUBLISHED.items()
    ]
    return table(head, rows)


def _figure(found: Any) -> Any:
    steps = {f"sigma {e['sigma']:g}": e["certified"]["curve"] for e in found["smoothed"]}
    marks = {
        f"sigma {entry['sigma']:g}": [
            (point["radius"], point["empirical"]) for point in entry["attacked"]["points"]
        ]
        for entry in found["smoothed"]
    }
    plain = [(point["radius"], point["accuracy"]) for point in found["undefended"]["attacked"]]
    return share_curves(
        steps,
        xlabel="L2 radius on images in [0, 1]",
        ylabel="accuracy: certified (line), attacked (points)",
        marks={**marks, "undefended, attacked": plain},
    )
