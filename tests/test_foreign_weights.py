"""Weights under another implementation's names: taken in order, or refused by the first entry."""

import pickle

import pytest
import torch
from torch import nn

from deitsec.models import CheckpointError, load_foreign_weights, save_checkpoint, wrap


def _network(channels=4, classes=3):
    """Its two convolutions are of one shape: an order that swaps them is seen in the logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 3),
        nn.Conv2d(channels, channels, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    ).eval()


_FOREIGN = {"0": "_stem", "1": "_bn0", "2": "_late._conv", "3": "_early._conv", "6": "_fc"}


def _foreign(state, *, counters=True):
    """The state dict under names that sort otherwise than they stand."""
    return {
        f"{_FOREIGN[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor
        for name, tensor in state.items()
        if counters or not name.endswith("num_batches_tracked")
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "published.pth"


@pytest.fixture
def published():
    network = _network()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    return network


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_in_order_make_the_published_network(file, published, counters, wrapped):
    torch.save(_foreign(published.state_dict(), counters=counters), file)
    ours = _network()
    asked = wrap(ours, mean=0.5, std=0.5, num_classes=3) if wrapped else ours
    assert load_foreign_weights(asked, file)
    images = torch.rand(5, 1, 12, 12)
    assert torch.equal(ours(images), published(images))


def test_the_networks_own_names_come_before_the_order(file, published):
    state = published.state_dict()
    torch.save(dict(reversed(state.items())), file)
    ours = _network()
    assert not load_foreign_weights(ours, file)
    assert all(torch.equal(ours.state_dict()[name], state[name]) for name in state)


def _cut(state, number):
    return dict(list(state.items())[:number])


def _swapped(state):
    """Mean and variance the other way round: of one shape, told by their last words only."""
    items = list(state.items())
    places = [name.rpartition(".")[2] for name, _ in items]
    first, second = places.index("running_mean"), places.index("running_var")
    items[first], items[second] = items[second], items[first]
    return dict(items)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _cut(s, -1), r"10 entries do not make 11: .* counterpart is 6\.bias"),
        (lambda s: {**s, "_more.weight": torch.ones(2)}, r"12 entries .* counterpart is _more\.w"),
        (
            lambda s: {**s, "_fc.weight": torch.ones(5, 4)},
            r"entry 10 does not agree: _fc\.weight \(5, 4\) for 6\.weight \(3, 4\)",
        ),
        (_swapped, r"entry 4 does not agree: _bn0\.running_var \(4,\) for 1\.running_mean"),
        (
            lambda s: dict(sorted(s.items())),  # as safetensors has them
            r"entry 1 does not agree: _bn0\.bias \(4,\) for 0\.weight \(4, 1, 3, 3\)",
        ),
    ],
)
def test_the_first_entry_that_does_not_agree_is_named(file, published, change, message):
    torch.save(change(_foreign(published.state_dict())), file)
    ours = _network()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_foreign_weights(ours, file)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_one_shared_name_is_said_to_be_why_the_order_was_not_taken(file, published):
    state = published.state_dict()
    foreign = {("6.bias" if k == "_fc.bias" else k): v for k, v in _foreign(state).items()}
    torch.save(foreign, file)
    with pytest.raises(CheckpointError, match="1 of its names are the network's, so that"):
        load_foreign_weights(_network(), file)


def test_a_safetensors_file_keeps_no_order(tmp_path, published):
    from safetensors.torch import save_file

    path = tmp_path / "published.safetensors"
    save_file(_foreign(published.state_dict()), path)
    with pytest.raises(CheckpointError, match="a safetensors file keeps no order"):
        load_foreign_weights(_network(), path)


def test_a_checkpoint_of_another_network_is_not_taken_in_order(tmp_path, published):
    """It carries a model card: its names are right, and not this network's."""
    other = nn.Sequential()
    other.add_module("body", published)
    path = tmp_path / "other.safetensors"
    save_checkpoint(wrap(other, mean=0.5, std=0.5, num_classes=3), path)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_foreign_weights(_network(), path)


class _Trap:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>", "expected a safetensors file or a torch.save file"),
        (pickle.dumps({"_stem.weight": _Trap()}), "refused, for unpickling it could run code"),
        (None, "there is no such file"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(file, content, message):
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_foreign_weights(_network(), file)
