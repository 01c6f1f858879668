"""The data and the models that a dataset is held against."""

from collections.abc import Mapping, Sequence

from torch import nn

from deitsec.attacks import Attack, parse_spec
from deitsec.data import DataError, DataSource, ImageSet, load_data
from deitsec.generation.prediction_proof import Judge
from deitsec.generation.provenance import attack_file_sha256
from deitsec.models import model_sha256
from deitsec.shards import Configuration, VariantRecord


def open_source(
    configuration: Configuration, data: DataSource | str | None
) -> tuple[DataSource | None, str | None]:
    """The data that was attacked, or why it is not at hand.

    Args:
        configuration: which data that is.
        data: what the caller gives; None opens what the manifest names.

    Raises:
        DataError: the data given cannot be opened.
        ValueError: it is other data.
    """
    meant = configuration.source
    if data is None:
        if not meant.uri:
            return None, "the manifest that names the data is lost: give --data"
        try:
            found = opened(meant.uri, configuration)
        except (DataError, ImportError, OSError) as error:
            return None, f"the data cannot be opened: {error}"
    else:
        found = opened(data, configuration) if isinstance(data, str) else data
    other = _difference(found, configuration)
    if other is None:
        return found, None
    if data is None:
        return None, f"{meant.uri} is other data by now: {other}"
    raise ValueError(f"--data {found.uri} is not the data that was attacked: {other}")


def split_of(data: DataSource, configuration: Configuration) -> ImageSet:
    """The split that was attacked."""
    images = data.train if configuration.source.split == "train" else data.test
    assert images is not None  # `_difference` has looked
    return images


def opened(uri: str, configuration: Configuration) -> DataSource:
    """Open data; brought to the size of the dataset's images where it is of another."""
    _, height, width = configuration.source.shape
    found = load_data(uri)
    if found.test.shape == configuration.source.shape or height != width:
        return found
    return load_data(uri, image_size=height)


def _difference(data: DataSource, configuration: Configuration) -> str | None:
    meant = configuration.source
    images = data.train if meant.split == "train" else data.test
    if images is None:
        return f"it has no {meant.split} split"
    if images.shape != meant.shape:
        return f"its images are {images.shape}, and were {meant.shape}"
    if len(images) != meant.rows:
        return f"its {meant.split} split has {len(images)} rows, and had {meant.rows}"
    if data.sha256 != meant.sha256:
        return f"its sha256 is {data.sha256}, and was {meant.sha256}"
    return None


def judges_of(
    configuration: Configuration, models: Sequence[nn.Module]
) -> tuple[Mapping[int, Judge], list[str]]:
    """Who can judge which variant, and why nobody judges the others.

    Raises:
        ValueError: a model that the dataset was not made with.
    """
    known = {variant.model_sha256: variant.model for variant in configuration.variants}
    surrogate: str | None = configuration.options.get("surrogate_sha256")
    if surrogate is not None:
        known.setdefault(surrogate, "surrogate")
    given: dict[str, nn.Module] = {}
    for model in models:
        sha256 = model_sha256(model)
        if sha256 not in known:
            name = getattr(model, "name", type(model).__name__)
            made = ", ".join(f"{other} {found}" for found, other in known.items())
            raise ValueError(
                f"the weights of {name} have the sha256 {sha256}, and the dataset was made with "
                f"{made}: give the checkpoint that was attacked"
            )
        given[sha256] = model
    judges: dict[int, Judge] = {}
    notes: list[str] = []
    for place, variant in enumerate(configuration.variants):
        if variant.model_sha256 not in given:
            continue
        attack, why = _attack_of(variant)
        if attack is None:
            notes.append(f"predictions of {variant.attack}: {why}")
            continue
        judge = Judge(
            model=given[variant.model_sha256],
            attack=attack,
            batch_size=configuration.options["batch_size"],
            seed=configuration.options["seed"],
        )
        if judge.repeats:
            judges[place] = judge
        else:
            notes.append(
                f"predictions of {variant.attack}: the model draws random numbers, and which try "
                "of a row was kept is not stored"
            )
    return judges, notes


def _attack_of(record: VariantRecord) -> tuple[Attack | None, str]:
    """The attack of a variant; None, and why, where it cannot be made as it was."""
    try:
        attack = parse_spec(record.attack)
        if attack_file_sha256(attack) == record.file_sha256:
            return attack, ""
    except (ValueError, OSError) as error:
        if record.file_sha256 is not None and "there is no such file" in str(error):
            return None, "its file is missing"
        return None, f"it cannot be made ({' '.join(str(error).split())})"
    return None, "its file is another one by now"
