"""The dataset card: what is in an exported dataset, and how it was made."""

from typing import Any

from deitsec.shards import Manifest, ShardFolder, VariantRecord

_TEXT = """\
# {title}

{rows} adversarial images of {count} classes, {shape}, made by deitsec from the {split} split of
{source}. Images are stored losslessly as 8-bit PNG; every success was judged on the 8-bit image.

{selection}
| variant | attack | norm | eps | model | sha256 of its weights | rows | success | clean accuracy |
| ---: | --- | --- | --- | --- | --- | ---: | ---: | ---: |
{variants}

Success is the share of all rows whose goal the attack reached, clean accuracy the share that the
model got right before. The table counts the rows of the whole dataset, exported or not.

## Columns

`image` is the adversarial image and `label` the class of the image it was made from, not what the
model takes it for: that is `adversarial_prediction`. `target` is null where the attack had none,
`confidence` is the softmax of the adversarial prediction. `linf_levels` counts 255ths, `l2` and
`l1` are distances of images in [0, 1], `l0` counts the values that differ. `queries` and
`gradients` are forward and backward passes. `source_row` is the row of the source, `sample_id` the
number that random draws were made by, `variant` counts the attacks and models from 0.

```python
from datasets import load_dataset

dataset = load_dataset("path/of/this/folder", split="{split}")
```

## How it was made

- Command: {command}
- Source data: {source}, sha256 `{source_sha256}`
- Engine: {options}
- Software: {versions}

`source-manifest.json` is the manifest of the shards it was exported from, with the hash of each.
"""


def dataset_card(folder: ShardFolder, features: Any, *, split: str, num_bytes: int) -> str:
    """The text of README.md: YAML for the Hub, and a page for people.

    Args:
        folder: what was exported.
        features: `datasets.Features` of the rows.
        split: its name.
        num_bytes: of the data files.
    """
    manifest = folder.manifest
    source = manifest.configuration.source
    used = dict.fromkeys(entry.variant for entry in folder.entries)
    page = _TEXT.format(
        title=_plain(f"Adversarial {source.name}"),
        rows=f"{len(folder):,}",
        count=len(source.class_names),
        shape=" x ".join(map(str, source.shape)),
        split=split,
        source=_code(source.name),
        selection="Only images that fooled the model are in it.\n" if folder.only_success else "",
        variants="\n".join(_variant_row(manifest, number) for number in sorted(used)),
        command=_code(" ".join(["deitsec", *manifest.command]))
        if manifest.command
        else "not noted",
        source_sha256=source.sha256,
        options=_pairs(manifest.configuration.options),
        versions=_pairs(manifest.configuration.versions),
    )
    return f"---\n{_yaml(folder, features, split, num_bytes)}\n---\n\n{page}"


def _yaml(folder: ShardFolder, features: Any, split: str, num_bytes: int) -> str:
    from datasets import DatasetInfo, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    splits: Any = SplitDict()
    splits.add(SplitInfo(name=split, num_bytes=num_bytes, num_examples=len(folder)))
    info = DatasetInfo(
        features=features, splits=splits, download_size=num_bytes, dataset_size=num_bytes
    )
    card = DatasetCardData(
        pretty_name=_plain(f"Adversarial {folder.manifest.configuration.source.name}"),
        task_categories=["image-classification"],
        tags=["adversarial-examples", "robustness", "deitsec"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"}],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return card.to_yaml()


def _variant_row(manifest: Manifest, number: int) -> str:
    variant: VariantRecord = manifest.configuration.variants[number]
    entries = [entry for entry in manifest.shards if entry.variant == number]
    rows = sum(entry.rows for entry in entries)
    cells = (
        str(number),
        _code(variant.attack),
        variant.norm,
        "none" if variant.eps is None else f"{variant.eps:.6g}",
        _code(variant.model),
        f"`{variant.model_sha256}`",
        f"{rows:,}",
        _share(sum(entry.successes for entry in entries), rows),
        _share(sum(entry.correct for entry in entries), rows),
    )
    return f"| {' | '.join(cells)} |"


def _share(some: int, rows: int) -> str:
    return f"{some / rows:.2%}" if rows else "none"


def _pairs(values: Any) -> str:
    return (
        ", ".join(f"{name} {_plain(str(value))}" for name, value in values.items()) or "not noted"
    )


def _plain(text: str) -> str:
    """One line, whatever a name holds."""
    return " ".join(text.split())


def _code(text: str) -> str:
    """Text as code in a table: neither bars nor backticks end the cell."""
    return f"`{_plain(text).replace('`', chr(39)).replace('|', '/')}`"
