"""Classifier, wrap and the project's own networks."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import deitsec.models
from deitsec.models import Classifier, build_own, load_model, wrap

OWN = (
    "deit_micro",
    "logistic_regression",
    "mnist_dense",
    "mnist_dense_bn",
    "vat_dense",
    "papernot_cifar10",
    "papernot_mnist",
    "small_cnn",
)


class Answer(nn.Module):
    """Returns what it is told to, built from the logits of a linear layer."""

    def __init__(self, answer, *, pixels=12, classes=5):
        super().__init__()
        self.linear = nn.Linear(pixels, classes)
        self.answer = answer

    def forward(self, x):
        return self.answer(self.linear(x.flatten(1)))


def wrap_answer(answer, **arguments):
    settings = {"mean": 0.25, "std": 0.5, "num_classes": 5, "in_chans": 3}
    return wrap(Answer(answer), **{**settings, **arguments})


def same(x):
    return x


def test_forward_normalises_per_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    model = wrap_answer(same, mean=mean, std=std)
    images = torch.rand(4, 3, 2, 2)
    expected = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.equal(model(images), model.module(expected))


def test_normalisation_is_in_no_state_dict():
    model = wrap_answer(same)
    assert set(model.module.state_dict()) == {"linear.weight", "linear.bias"}
    assert set(model.state_dict()) == {"module.linear.weight", "module.linear.bias"}


def test_attributes():
    model = wrap_answer(same, mean=(0.1, 0.2, 0.3), std=0.5, input_size=2, in_chans=None)
    assert (model.name, model.num_classes, model.in_chans) == ("Answer", 5, 3)
    assert (model.input_size, model.head, model.distilled) == ((2, 2), "average", False)
    assert model.normalization == ((0.1, 0.2, 0.3), (0.5,))
    assert model.mean.shape == (3, 1, 1)


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (1, 1), (9, 9)])
def test_images_of_any_size_are_resized_bilinearly(size):
    model = wrap_answer(same, input_size=2)
    images = torch.rand(3, 3, *size)
    resized = nn.functional.interpolate(images, (2, 2), mode="bilinear", align_corners=False)
    assert torch.equal(model(images), model.module((resized - 0.25) / 0.5))


def test_gradient_reaches_the_images_through_resize_and_channels():
    model = wrap_answer(same, input_size=2)
    images = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    model.double()
    assert torch.autograd.gradcheck(model, images.requires_grad_())


def test_one_channel_is_repeated():
    model = wrap_answer(same, input_size=2)
    grey = torch.rand(3, 1, 4, 4)
    torch.testing.assert_close(model(grey), model(grey.expand(-1, 3, -1, -1)))


def test_three_channels_become_luma():
    model = wrap(Answer(same, pixels=4), mean=0.5, std=0.5, num_classes=5, in_chans=1)
    images = torch.rand(3, 3, 2, 2)
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(model(images), model(luma))


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="takes 3 channels, got images of 4"):
        wrap_answer(same)(torch.rand(2, 4, 2, 2))


def test_images_without_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got shape \(3, 2, 2\)"):
        wrap_answer(same)(torch.rand(3, 2, 2))


@pytest.mark.parametrize(
    "answer",
    [
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: (logits - 1, logits + 1),
        lambda logits: [logits - 1, logits + 1],
        lambda logits: SimpleNamespace(logits=(logits - 1, logits + 1)),
    ],
)
def test_logits_are_found_in_the_output(answer):
    model = wrap_answer(answer)
    images = torch.rand(2, 3, 2, 2)
    torch.testing.assert_close(
        model(images), model.module.linear(((images - 0.25) / 0.5).flatten(1))
    )


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda logits: logits[:, :4], r"shape \(2, 4\)"),
        (lambda logits: logits[:1], r"shape \(1, 5\)"),
        (lambda logits: logits[..., None], r"shape \(2, 5, 1\)"),
        (lambda logits: (logits.sum(), logits), "a tuple of 2"),
        (lambda logits: (logits,), "a tuple of 1"),
        (lambda logits: {"scores": logits}, "a dict of 1"),
        (lambda logits: None, "a NoneType"),
    ],
)
def test_wrong_output_is_one_clear_error(answer, got):
    with pytest.raises(ValueError, match=rf"Answer returned {got}, expected .* shape \(2, 5\)"):
        wrap_answer(answer)(torch.rand(2, 3, 2, 2))


@pytest.mark.parametrize("head", ["average", "class"])
def test_compiles_to_one_graph(head):
    model = load_model("deit_micro", head=head)
    images = torch.rand(2, 1, 28, 28)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images), model(images))


def test_empty_batch():
    assert wrap_answer(same, input_size=2)(torch.rand(0, 3, 4, 4)).shape == (0, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 0.0}, "std must be > 0"),
        ({"std": (0.5, -0.5, 0.5)}, "std must be > 0"),
        ({"std": float("nan")}, "std must be finite"),
        ({"mean": float("inf")}, "mean must be finite"),
        ({"mean": (0.1, 0.2)}, "mean must have 1 value or one a channel"),
        ({"mean": (0.1, 0.2), "std": (0.1, 0.2, 0.3), "in_chans": None}, "mean and std must have"),
        ({"mean": ()}, "mean must be a number"),
        ({"mean": torch.rand(2, 2)}, "mean must be a number"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ({"input_size": 0}, "input_size must be >= 1"),
    ],
)
def test_wrap_refuses_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        wrap_answer(same, **arguments)


@pytest.mark.parametrize("module", [lambda x: x, wrap_answer(same)])
def test_wrap_refuses_what_is_no_bare_module(module):
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module|is a Classifier already"):
        wrap(module, mean=0.5, std=0.5, num_classes=5)


@pytest.mark.parametrize(
    "form", [tuple, list, torch.tensor, lambda v: torch.tensor(v).view(3, 1, 1)]
)
def test_wrap_takes_values_in_any_form(form):
    model = wrap_answer(same, mean=form([0.25, 0.5, 0.75]), std=form([0.5, 1.0, 2.0]))
    assert model.normalization == ((0.25, 0.5, 0.75), (0.5, 1.0, 2.0))


def test_wrap_reads_channels_from_the_first_convolution():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    model = wrap(network, mean=0.5, std=0.5, num_classes=5)
    assert model.in_chans == 1
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert wrap(Answer(same), mean=0.5, std=0.5, num_classes=5).in_chans is None


@pytest.mark.parametrize("training", [True, False])
def test_wrap_keeps_mode_and_gradient_flags(training):
    module = Answer(same).train(training)
    module.linear.bias.requires_grad_(False)
    model = wrap(module, mean=0.5, std=0.5, num_classes=5)
    assert model.module is module
    assert model.training is training
    assert [p.requires_grad for p in module.parameters()] == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", ["average", "class"])
def test_half_precision_takes_fp32_images_normalised_in_fp32(dtype, head):
    model = build_own("deit_micro", in_chans=1, image_size=8, head=head).eval()
    model.mean.fill_(0.0)  # half() starts it anew
    model.to(dtype)
    seen = []
    model.module.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    logits = model(images)
    assert logits.dtype == seen[0].dtype == dtype
    assert torch.equal(seen[0], ((images - 0.5) / 0.5).to(dtype))
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.dtype == torch.float32
    assert gradient.abs().sum() > 0


def test_a_half_precision_network_is_wrapped_with_exact_statistics():
    model = wrap(Answer(same).bfloat16(), mean=0.1307, std=0.3081, num_classes=5)
    assert model.mean.dtype == torch.float32
    assert model.mean.item() == torch.tensor(0.1307).item()


def test_buffers_follow_the_dtype_of_the_module():
    model = wrap(Answer(same).double(), mean=0.1, std=0.5, num_classes=5)
    assert model.mean.dtype == torch.float64
    assert model.mean.item() == 0.1


def test_classifier_can_be_copied():
    model = load_model("deit_micro", head="class")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(copy.deepcopy(model)(images), model(images))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("flag", [True, False])
def test_heads_do_not_depend_on_mode_or_flag(training, flag):
    torch.manual_seed(0)
    model = build_own("deit_micro").train(training)
    model.module.set_distilled_training(flag)
    by_head = {head: with_head(model, head) for head in ("average", "class", "distillation")}
    images = torch.rand(3, 3, 32, 32)
    class_logits, distillation_logits = model.forward_heads(images)
    assert not torch.allclose(class_logits, distillation_logits)
    assert torch.equal(by_head["class"](images), class_logits)
    assert torch.equal(by_head["distillation"](images), distillation_logits)
    torch.testing.assert_close(by_head["average"](images), (class_logits + distillation_logits) / 2)
    assert model.module.training is training
    assert model.module.distilled_training is flag


def with_head(model, head):
    return Classifier(
        model.module,
        name=model.name,
        num_classes=model.num_classes,
        in_chans=model.in_chans,
        input_size=model.input_size,
        mean=model.normalization[0],
        std=model.normalization[1],
        head=head,
    )


def test_heads_equal_timm_s_train_mode_pair():
    model = build_own("deit_micro").train()
    model.module.set_distilled_training(True)
    images = torch.rand(2, 3, 32, 32)
    for ours, timms in zip(
        model.forward_heads(images), model.module((images - 0.5) / 0.5), strict=True
    ):
        assert torch.equal(ours, timms)


def test_heads_of_a_pooled_distilled_network():
    from timm.models.levit import LevitDistilled

    torch.manual_seed(0)
    network = LevitDistilled(
        img_size=32, num_classes=5, embed_dim=(16,), key_dim=4, depth=(1,), num_heads=(2,)
    ).eval()
    model = wrap(network, mean=0.5, std=0.5, num_classes=5)
    images = torch.rand(2, 3, 32, 32)
    class_logits, distillation_logits = model.forward_heads(images)
    assert torch.equal((class_logits + distillation_logits) / 2, model(images))


@pytest.mark.parametrize("head", ["class", "distillation"])
def test_head_of_a_network_with_one_is_refused(head):
    with pytest.raises(ValueError, match="small_cnn has one head"):
        load_model("small_cnn", head=head)


def test_forward_heads_of_a_network_with_one_is_refused():
    with pytest.raises(ValueError, match="small_cnn has one head"):
        load_model("small_cnn").forward_heads(torch.rand(1, 3, 32, 32))


def test_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head must be one of average, class, distillation"):
        load_model("deit_micro", head="both")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("in_chans", "image_size", "num_classes"), [(1, 28, 10), (3, 32, 7)])
def test_own_networks_fit_data(name, in_chans, image_size, num_classes):
    model = load_model(name, in_chans=in_chans, image_size=image_size, num_classes=num_classes)
    images = torch.rand(2, in_chans, image_size, image_size, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, num_classes)
    assert not model.training
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "dense", "channels"),
    [("papernot_mnist", 200, [32, 32, 64, 64]), ("papernot_cifar10", 256, [64, 64, 128, 128])],
)
def test_papernot_networks_are_the_paper_s(name, dense, channels):
    model = load_model(name)
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    linears = [part for part in model.modules() if isinstance(part, nn.Linear)]
    dropouts = [part for part in model.modules() if isinstance(part, nn.Dropout)]
    assert [part.out_channels for part in convolutions] == channels
    assert {part.kernel_size for part in convolutions} == {(3, 3)}
    assert [part.out_features for part in linears] == [dense, dense, 10]
    assert {part.p for part in dropouts} == {0.5}
    assert build_own(name, dropout=0.0).arguments["dropout"] == 0.0


def test_logistic_regression_is_linear_in_the_images():
    model = load_model("logistic_regression").double()
    a, b = torch.rand(2, 1, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(model((a + b) / 2), (model(a) + model(b)) / 2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("papernot_mnist", {"image_size": 15}, "16 pixels and more, got image_size=15"),
        ("small_cnn", {"image_size": 3}, "4 pixels and more"),
        ("deit_micro", {"image_size": 30, "patch_size": 7}, "multiple of patch_size=7, got 30"),
        ("deit_micro", {"embed_dim": 90}, "multiple of num_heads=4, got 90"),
        ("mnist_dense", {"depth": 0}, "depth must be >= 1"),
        ("mnist_dense", {"in_chans": 0}, "in_chans must be >= 1"),
        ("vat_dense", {"noise": -0.1}, "noise must be >= 0"),
        ("mnist_dance", {}, "name must be one of"),
    ],
)
def test_build_own_refuses_wrong_values(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_own(name, **arguments)


def test_build_own_refuses_unknown_arguments():
    with pytest.raises(TypeError, match=r"small_cnn takes .*width; got patch_size"):
        build_own("small_cnn", patch_size=4)


def test_every_public_name_is_what_it_says():
    for _ in range(2):  # importing a submodule must not shadow a name
        for name in deitsec.models.__all__:
            assert getattr(getattr(deitsec.models, name), "__name__", name) == name
    assert set(deitsec.models.__all__) <= set(dir(deitsec.models))
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        deitsec.models.load_modle  # noqa: B018


def test_import_does_not_import_timm():
    code = (
        "import sys, deitsec.models as m; m.load_model('small_cnn'); "
        "sys.exit('timm' in sys.modules or 'torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
