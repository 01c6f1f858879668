"""`deitsec generate verify`: what it says, and that it mends."""

import json
from pathlib import Path

import pytest
from verify_for_tests import BATCH, SPECS, column, rewritten

from deitsec.attacks import parse_spec
from deitsec.engine import Engine
from deitsec.generation import Settings, generate
from deitsec.shards import shard_name

pytest.importorskip("pyarrow")
pytest.importorskip("filelock")


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset of a model that a checkpoint holds, and the checkpoint."""
    from deitsec.models import load_model, save_checkpoint

    name = {"num_classes": 10, "in_chans": 1, "image_size": 32}
    net = load_model("logistic_regression", **name)
    folder, checkpoint = tmp_path / "d", tmp_path / "weights.safetensors"
    save_checkpoint(net, checkpoint)
    generate(
        Engine(net, batch_size=BATCH),
        parse_spec(SPECS[0]),
        "digits",
        out=folder,
        settings=Settings(rows=20, shard_rows=10),
    )
    return folder, checkpoint


def test_the_command_says_what_is_wrong_and_mends_it(
    weights: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from deitsec.cli.app import run

    folder, checkpoint = weights
    before = (folder / shard_name(1)).read_bytes()
    given = ["generate", "verify", str(folder), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert run(given) == 0
    assert "sound; 2 shards, 20 rows" in capfd.readouterr().out
    label = (column(folder, "label", 1) + 1) % 10
    rewritten(folder, 1, label=label)
    assert run(given) == 3
    said = capfd.readouterr().out
    assert "label: shard 1, row 0 (source row 10, sample 10): labelled" in said
    assert run([*given, "--json"]) == 3
    document = json.loads(capfd.readouterr().out)
    assert not document["sound"]
    assert document["counts"]["label"] == 10
    first = next(one for one in document["findings"] if one["kind"] == "label")
    assert (first["shard"], first["row"], first["source_row"]) == (1, 0, 10)
    assert run([*given, "--repair"]) == 0
    assert "shard 1 was made again" in capfd.readouterr().out
    assert (folder / shard_name(1)).read_bytes() == before


def test_bad_input_is_one_line_and_exit_code_2(
    weights: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from deitsec.cli.app import run

    folder, _ = weights
    for more in ([str(tmp_path / "nothing")], [str(folder), "--data", "digitz"]):
        assert run(["generate", "verify", *more, "--device", "cpu"]) == 2
        assert capfd.readouterr().err.strip().splitlines()[-1].startswith("deitsec: ")
