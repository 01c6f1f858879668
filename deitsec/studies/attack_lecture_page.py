"""The page of the lecture on attacks: what each topic shows, and says in a sentence."""

from deitsec.report.wording import grey_levels
from deitsec.studies.attacked_photographs import attack_strip, outcome_table
from deitsec.studies.hidden_data import hidden_data_table
from deitsec.studies.impersonation import impersonation_table
from deitsec.studies.lecture import Found
from deitsec.studies.photographs import told
from deitsec.studies.study import Page
from deitsec.studies.tables import share


def show_photograph(found: Found) -> Page:
    """The photographs' picture and table."""
    rows = [(f"{one['name']} `{one['spec']}`", one) for one in found["attacks"]]
    parts = [
        f"{told(found['subject'])} No value of an image is changed by more than "
        f"{grey_levels(found['eps'])}, every image is one of 8 bits, and every attack goes to the "
        "highest loss that it finds. FGSM-LL aims at the class that the classifier finds least "
        "likely.",
        "![a photograph under each attack](figure:strip)",
        "The maps show the largest derivative of the winning logit over the colours of a pixel.",
        outcome_table(rows),
    ]
    return Page(markdown="\n\n".join(parts), figures={"strip": attack_strip(found["example"])})


def show_goals(found: Found) -> Page:
    """Both goals, by confidence."""
    goals = found["goals"]
    denied = ", ".join(f"{share(one['denial'], 1)} of {one['name']}" for one in goals)
    about = ", ".join(f"{one['right']} of {one['rows']} {one['name']}" for one in goals)
    numbers = list(dict.fromkeys(one["targets"] for one in goals))
    targets = " or ".join(map(str, numbers))
    return Page(
        markdown="PGD at half of the usual radius, on images that the classifier has right "
        f"({about}); untargeted it succeeds on {denied}. An impersonation is a pair of image and "
        f"target class, of which each image has {targets}; a denial of service by targets counts "
        "the images for which one of them is reached with that confidence.\n\n"
        + impersonation_table(goals)
    )


def short_photograph(found: Found) -> str:
    """What the attacks do to the error, and what the classifier says of the crop."""
    worst = max(found["attacks"], key=lambda one: one["error"])
    cells = found["example"]["cells"]
    sure = max(cells[1:], key=lambda one: one["confidence"])
    return (
        f"{worst['name']} brings the error from {share(worst['clean_error'], 1)} to "
        f"{share(worst['error'], 1)}; of the crop shown the classifier says "
        f"*{cells[0]['answer']}* at {share(cells[0]['confidence'], 1)} before and "
        f"*{sure['answer']}* at {share(sure['confidence'], 1)} after {sure['name']}."
    )


def short_goals(found: Found) -> str:
    """How often each goal is reached, on photographs and on the data."""
    return " ".join(map(_reached, found["goals"]))


def _reached(goals: Found) -> str:
    if not goals["points"]:
        return f"On {goals['name']}, no image was right before."
    surest = goals["points"][-1]
    return (
        f"On {goals['name']}, {share(goals['denial'], 1)} of the images are denied, and "
        f"{share(surest['impersonation'], 1)} of the impersonations reach a confidence of "
        f"{share(surest['confidence'], 0)}."
    )


def show_hidden_data(found: Found) -> Page:
    """What fools the model, by what the attacker knew."""
    own, same, other = (one["fooled"] for one in found["known"])
    return Page(
        markdown=f"{found['network']} on {found['rows']} test images, PGD within "
        f"{grey_levels(found['eps'])}; shares are of the images that the model has right, and "
        "noise is the same change shuffled. *Accuracy* is that on all "
        f"{found['test_rows']:,} test images.\n\n{hidden_data_table(found)}\nOf what "
        f"knowing the model gives ({share(own, 1)}), other weights on the same data give "
        f"{_part(same, own)}, and none of its data {_part(other, own)}."
    )


def _part(some: float, whole: float) -> str:
    return f"{some / whole:.2f} of it" if whole else "nothing to compare"


def short_hidden_data(found: Found) -> str:
    """What the data are worth to the attacker."""
    same, other = found["known"][1:]
    return (
        f"Images made without one of its training images fool the model with "
        f"{share(other['fooled'], 1)}, those made with all of them with {share(same['fooled'], 1)} "
        f"(noise: {share(other['noise'], 1)})."
    )


def short_hidden_model(found: Found) -> str:
    """What the best and the worst substitute come to, each beside noise of the same size."""
    attacks = [(one["name"], attack) for one in found["substitutes"] for attack in one["attacks"]]
    ranked = sorted(attacks, key=lambda pair: pair[1]["transfer"] or 0.0)
    hidden = found["matrix"]["names"][0]

    def told(name: str, attack: Found) -> str:
        same = "of the hidden model's architecture" if name == hidden else "of another architecture"
        return (
            f"{name}, {same}, {attack['spec'].partition(':')[0]}: {share(attack['transfer'], 1)}, "
            f"noise of the same size {share(attack['noise'], 1)}"
        )

    best, worst = ranked[-1], ranked[0]
    if best is worst:
        return f"The substitute trained on answers alone fools ({told(*best)})."
    return (
        f"Of the substitutes trained on answers alone the best fools ({told(*best)}), the worst "
        f"({told(*worst)})."
    )


def short_adversarial(found: Found) -> str:
    """What training against attacks gains and costs."""
    undefended, trained = found["methods"][0], found["methods"][-1]
    before, after = (
        share(min(one[name] for name in ("fgsm", "pgd", "strong")), 1)
        for one in (undefended, trained)
    )
    return (
        f"Under the strongest attack {after} are left instead of {before}, and clean accuracy "
        f"{changed_by(undefended['clean'], trained['clean'])}."
    )


def changed_by(before: float, after: float) -> str:
    """How an accuracy changed: `falls from 98.0% to 96.0%`."""
    if share(before, 1) == share(after, 1):
        return f"stays at {share(after, 1)}"
    went = "falls" if after < before else "rises"
    return f"{went} from {share(before, 1)} to {share(after, 1)}"


def short_noise(found: Found) -> str:
    """What noise at test time is worth, to who knows of it."""
    noisy = next(one for one in found["defenses"] if one["name"] == "noise at test time")
    return (
        f"On {found['rows']} images noise at test time leaves {share(noisy['plain'], 1)} under an "
        f"attack that does not know of it and {share(noisy['adaptive'], 1)} under one that "
        "averages over the noise."
    )


def short_detector(found: Found) -> str:
    """Who gets past classifier and discriminator."""
    naive = max(found["attacks"], key=lambda one: one["success"])
    known = max(found["adaptive"], key=lambda one: one["success"])
    return (
        f"Of the attacks that do not know of it, the best evades with {share(naive['success'], 1)} "
        f"({naive['spec']}); on classifier and discriminator together, with "
        f"{share(known['success'], 1)} ({known['spec']})."
    )
