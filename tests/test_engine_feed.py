import pytest
import torch
from models_for_tests import images_and_labels, mlp
from torch.utils.data import DataLoader, TensorDataset

from deitsec.attacks import FGSM, PGD
from deitsec.engine import Engine

MODEL = mlp()
IMAGES, LABELS = images_and_labels(MODEL, rows=40)
TARGETS = (LABELS + 1) % 5
ATTACK = PGD(eps=0.1, steps=3)


def _pieces(*tensors, size=7):
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def _engine(**options):
    return Engine(MODEL, batch_size=8, compaction=False, **options)


def _named(images="images", labels="labels", **more):
    return [
        {images: x, labels: y, **{name: part[k] for name, part in more.items()}}
        for k, (x, y) in enumerate(_pieces(IMAGES, LABELS))
    ]


@pytest.mark.parametrize(
    "source",
    [
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=7),
        _pieces(IMAGES, LABELS),
        [list(piece) for piece in _pieces(IMAGES, LABELS)],
        [(*piece, None) for piece in _pieces(IMAGES, LABELS)],
        _named(),
        _named("pixel_values", "label"),
        _named("img", "labels", sample_ids=torch.arange(40).split(7)),
        _pieces(IMAGES, LABELS, size=40),
        _pieces(IMAGES, LABELS, size=1),
    ],
)
def test_every_source_gives_the_rows_of_the_tensors(source):
    expected = _engine().run(ATTACK, IMAGES, LABELS)
    found = _engine().run(ATTACK, source)
    assert torch.equal(found.clean, IMAGES)
    assert torch.equal(found.labels, LABELS)
    assert torch.equal(found.sample_ids, torch.arange(40))
    assert torch.equal(found.success, expected.success)
    torch.testing.assert_close(found.adv, expected.adv, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "source", [_pieces(IMAGES, LABELS, TARGETS), _named(targets=TARGETS.split(7))]
)
def test_targets_and_sample_ids_come_with_the_items(source):
    ids = torch.arange(40).flip(0) * 3
    expected = _engine().run(ATTACK, IMAGES, LABELS, TARGETS)
    found = _engine().run(ATTACK, source)
    assert torch.equal(found.targets, TARGETS)
    torch.testing.assert_close(found.adv, expected.adv, rtol=0, atol=1e-12)
    expected = _engine().run(ATTACK, IMAGES, LABELS, sample_ids=ids)
    found = _engine().run(ATTACK, _named(sample_ids=ids.split(7)))
    assert torch.equal(found.sample_ids, ids)
    torch.testing.assert_close(found.adv, expected.adv, rtol=0, atol=1e-12)


def test_a_stream_keeps_order_and_reads_no_more_than_two_waves_ahead():
    read = 0

    def source():
        nonlocal read
        for piece in _pieces(IMAGES, LABELS, size=2):
            read += 2
            yield piece

    given = 0
    for result in _engine().stream(ATTACK, source()):
        assert result.sample_ids.tolist() == list(range(given, given + len(result.adv)))
        given += len(result.adv)
        assert read <= given + 2 * 8
    assert given == 40


def _broken(position, item):
    pieces = _pieces(IMAGES, LABELS, size=8)
    pieces[position] = item
    return pieces


X, Y = IMAGES[:8], LABELS[:8]


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (X, TypeError, "got Tensor"),
        ((X,), TypeError, "got a tuple of Tensor"),
        ((X, Y, Y, Y), TypeError, "got a tuple of Tensor, Tensor"),
        ((X, 3), TypeError, "got a tuple of Tensor, int"),
        ({"image": X}, TypeError, "got a mapping with 'image'"),
        (None, TypeError, "got NoneType"),
        (((X * 255).byte(), Y), TypeError, "images must be float"),
        ((X * 2, Y), ValueError, "row"),
        ((X[:0], Y[:0]), ValueError, "at least one row"),
        ((X[0], Y), ValueError, r"\(B, C, H, W\)"),
        ((torch.tensor(0.5), Y), ValueError, r"\(B, C, H, W\)"),
        ((X, Y[:3]), ValueError, "labels must be"),
        ((X[:, :, :5], Y), ValueError, "one shape and dtype"),
        ((X.float(), Y), ValueError, "one shape and dtype"),
        ((X, Y, (Y + 1) % 5), ValueError, "targets must be given for all"),
    ],
)
@pytest.mark.parametrize("position", [1, 3])
def test_a_wrong_item_is_named_in_one_line(item, error, message, position):
    with pytest.raises(error, match=message) as caught:
        _engine().run(ATTACK, _broken(position, item))
    assert f"batch {position} of the images" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "given", "message"),
    [
        ([], {}, "at least one row, got 0"),
        (_pieces(IMAGES, LABELS), {"labels": LABELS}, "come from the iterable"),
        (_pieces(IMAGES, LABELS), {"targets": TARGETS}, "come from the iterable"),
        (IMAGES, {}, "labels must be given"),
    ],
)
def test_what_does_not_go_together_is_refused(images, given, message):
    with pytest.raises(ValueError, match=message):
        _engine().run(ATTACK, images, **given)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_error_of_the_source_comes_through(after):
    class DiskError(Exception):
        pass

    def source():
        yield from _pieces(IMAGES, LABELS, size=8)[:after]
        raise DiskError("sector 7")

    with pytest.raises(DiskError, match="sector 7"):
        _engine().run(ATTACK, source())


def test_an_abandoned_stream_leaves_the_model_as_it_was():
    model = mlp().train()
    model[1].weight.requires_grad_(False)
    learnable = [p.requires_grad for p in model.parameters()]
    rng = torch.get_rng_state()
    stream = Engine(model, batch_size=8).stream(FGSM(), _pieces(IMAGES, LABELS))
    with pytest.warns(UserWarning, match="train mode"):
        next(stream)
    # between two waves the model is the caller's
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == learnable
    stream.close()
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == learnable
    assert torch.equal(torch.get_rng_state(), rng)
