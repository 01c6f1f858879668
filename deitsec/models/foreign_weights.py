"""Weights under another implementation's names: only their order says which is which."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from torch import Tensor, nn

from deitsec.models.checkpoint import find_model_card, load_weights
from deitsec.models.checkpoint_error import CheckpointError
from deitsec.models.hf_keys import from_transformers
from deitsec.models.state_file import is_safetensors, read_tensors, strip_prefixes
from deitsec.models.weights_hash import network_of, tensors_of

_COUNTER = "num_batches_tracked"  # of a batch norm: in old files absent, in eval mode without use


def load_foreign_weights(module: nn.Module, path: str | PathLike[str]) -> bool:
    """Load a checkpoint by its names, or in order where it has none of the network's names.

    In order, every entry of the file must have the shape of the network's entry at its place, and
    the last word of its name (`running_mean`), and there must be as many; counters of batches are
    left out on both sides. That makes it likely, and not certain, that the architecture is the
    same: see what the network says of known images before you measure anything on it.

    Args:
        module: a module, or a Classifier, whose network is loaded.
        path: a torch file; one of safetensors keeps no order, and is loaded by its names only.

    Returns:
        Whether the weights were taken in order.

    Raises:
        CheckpointError: if `load_weights` refuses the file, or it does not agree in order: the
            message names the first entry that does not. Then the module is as it was.
    """
    path, network = Path(path), network_of(module)
    expected = tensors_of(network)
    given = from_transformers(strip_prefixes(read_tensors(path), expected))
    known = sum(name in expected for name in given)
    if known or find_model_card(path) is not None:
        try:
            load_weights(network, path)
        except CheckpointError as error:
            if known in (0, len(expected)):
                raise
            raise CheckpointError(
                f"{error}; {known} of its names are the network's, so that the order of the "
                "others was not taken for theirs"
            ) from error
        return False
    if is_safetensors(path):
        raise CheckpointError(
            f"{path}: none of its names is the network's, and a safetensors file keeps no order "
            "that could stand for them: save it under the network's names, or by torch.save"
        )
    network.load_state_dict({**expected, **_in_order(expected, given, path)})
    return True


def _in_order(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The tensors of a file under the network's names."""
    wanted, found = (
        [name for name in names if _last_word(name) != _COUNTER] for names in (expected, given)
    )
    for place, (own, foreign) in enumerate(zip(wanted, found, strict=False), start=1):
        shapes = tuple(given[foreign].shape), tuple(expected[own].shape)
        if shapes[0] != shapes[1] or _last_word(foreign) != _last_word(own):
            raise CheckpointError(
                f"{path}: none of its names is the network's, and in order entry {place} does not "
                f"agree: {foreign} {shapes[0]} for {own} {shapes[1]}"
            )
    if len(wanted) != len(found):
        longer = max(wanted, found, key=len)
        first = longer[min(len(wanted), len(found))]
        raise CheckpointError(
            f"{path}: none of its names is the network's, and in order {len(found)} entries do not "
            f"make {len(wanted)}: the first without a counterpart is {first}"
        )
    return {own: given[foreign] for own, foreign in zip(wanted, found, strict=True)}


def _last_word(name: str) -> str:
    return name.rpartition(".")[2]
