"""What a call of another library's face hangs on: attributes, seeds, units, radii and dtypes."""

import pytest
import torch
from models_for_tests import Counting, conv, images_and_labels
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deitsec.compat import art, foolbox, torchattacks
from deitsec.compat.scaled import Range, Scale

MODEL = conv()
IMAGES = images_and_labels(nn.Flatten(), rows=16)[0].float()
with torch.no_grad():
    LABELS = MODEL(IMAGES).argmax(1)


class Bytes(nn.Module):
    """The model of images in [0, 255]."""

    def forward(self, x):
        return MODEL(x / 255)


@pytest.mark.parametrize(
    ("name", "plain", "wide"),
    [
        ("LinfPGD", {"abs_stepsize": 0.02}, {"abs_stepsize": 0.02 * 255}),
        ("LinfPGD", {"rel_stepsize": 0.2}, {"rel_stepsize": 0.2}),
        ("MIFGSM", {"abs_stepsize": 0.02}, {"abs_stepsize": 0.02 * 255}),
        ("L2PGD", {"abs_stepsize": 0.05}, {"abs_stepsize": 0.05 * 255}),
        ("DDNAttack", {"init_epsilon": 0.5}, {"init_epsilon": 0.5 * 255}),
        (
            "L2CarliniWagnerAttack",
            {"initial_const": 0.1, "binary_search_steps": 2, "steps": 30, "stepsize": 0.05},
            {"initial_const": 0.1 * 255**2, "binary_search_steps": 2, "steps": 30}
            | {"stepsize": 0.05},
        ),
    ],
)
def test_foolbox_on_bytes_is_foolbox_on_shares_scaled(name, plain, wide):
    """Up to the rounding of fp32, which turns the sign of a tiny gradient here and there."""
    made = getattr(foolbox, name)
    start = {"random_start": False} if "random_start" in made.face.defaults else {}
    narrow = foolbox.PyTorchModel(MODEL, (0, 1))
    broad = foolbox.PyTorchModel(Bytes(), (0, 255))
    eps = 0.1 if name in ("LinfPGD", "MIFGSM") else 0.5
    raw, _, won = made(**plain, **start)(narrow, IMAGES, LABELS, epsilons=eps)
    far, _, far_won = made(**wide, **start)(broad, IMAGES * 255, LABELS, epsilons=eps * 255)
    assert won.any()
    assert (won == far_won).float().mean() > 0.9
    same = (far / 255 - raw).abs().flatten(1).amax(1) <= 1e-3
    assert same.float().mean() > 0.7


@pytest.mark.parametrize(
    ("name", "options", "unit"),
    [
        ("FastGradientMethod", {"eps": 0.1}, {"eps": 1}),
        ("ProjectedGradientDescent", {"eps": 0.1, "eps_step": 0.02}, {"eps": 1, "eps_step": 1}),
        ("SaliencyMapMethod", {"theta": 0.3}, {"theta": 1}),
        ("CarliniL2Method", {"initial_const": 0.1, "binary_search_steps": 2}, {"initial_const": 2}),
    ],
)
def test_art_on_bytes_is_art_on_shares_scaled(name, options, unit):
    x, y = IMAGES.numpy(), LABELS.numpy()
    narrow = art.PyTorchClassifier(MODEL, None, (1, 6, 6), 4, clip_values=(0, 1))
    broad = art.PyTorchClassifier(Bytes(), None, (1, 6, 6), 4, clip_values=(0, 255))
    y = (y + 1) % 4 if name == "SaliencyMapMethod" else y
    wide = {key: value * 255.0 ** unit.get(key, 0) for key, value in options.items()}
    adv = getattr(art, name)(narrow, **options).generate(x, y)
    far = getattr(art, name)(broad, **wide).generate(x * 255, y)
    assert (adv != x).any()
    same = abs(far / 255 - adv).reshape(16, -1).max(1) <= 1e-3
    assert same.mean() > 0.7


def test_a_model_that_is_set_is_the_one_attacked():
    attack = torchattacks.FGSM(MODEL, eps=0.1)
    first = attack(IMAGES, LABELS)
    attack.model = other = conv(seed=3)
    assert torch.equal(attack(IMAGES, LABELS), torchattacks.FGSM(other, eps=0.1)(IMAGES, LABELS))
    assert not torch.equal(attack(IMAGES, LABELS), first)


def test_a_number_of_passes_that_is_set_counts():
    counted = Counting(MODEL)
    attack = torchattacks.EOTPGD(counted, steps=1, eot_iter=2, random_start=False)
    passes = []
    for attack.eot_iter in (2, 2, 6):
        counted.sizes.clear()
        attack(IMAGES, LABELS)
        passes.append(sum(counted.sizes))
    assert passes[2] >= 2 * passes[1]


@pytest.mark.parametrize("name", ["APGD", "Square"])
def test_a_seed_gives_the_same_draws_in_every_call(name):
    options = {"APGD": {"steps": 2}, "Square": {"n_queries": 8}}[name]
    attack = getattr(torchattacks, name)(MODEL, eps=0.01, seed=5, **options)
    first = attack(IMAGES, LABELS)
    assert torch.equal(attack(IMAGES, LABELS), first)
    attack.seed = 6
    second = attack(IMAGES, LABELS)
    assert not torch.equal(second, first)
    assert torch.equal(attack(IMAGES, LABELS), second)
    attack.seed = 5
    assert torch.equal(attack(IMAGES, LABELS), first)


def test_without_a_seed_the_generator_of_torch_decides_each_call():
    attack = torchattacks.PGD(MODEL, eps=0.1, steps=1, alpha=0.001)

    def drawn(seed):
        torch.manual_seed(seed)
        return attack(IMAGES, LABELS)

    first = drawn(1)
    assert not torch.equal(attack(IMAGES, LABELS), first)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 3)])
@pytest.mark.parametrize("name", ["LinfPGD", "L2DeepFoolAttack", "LinfDeepFoolAttack"])
def test_a_radius_of_0_gives_the_images_as_they_are(name, bounds):
    low, high = bounds
    given = IMAGES * (high - low) + low
    wrong = LABELS.clone()
    wrong[::3] = (wrong[::3] + 1) % 4

    class Shifted(nn.Module):
        def forward(self, x):
            return MODEL((x - low) / (high - low))

    fmodel = foolbox.PyTorchModel(Shifted(), bounds)
    for epsilons in ([0.0, 0.2, 0], 0.0):
        _, clipped, won = getattr(foolbox, name)()(fmodel, given, wrong, epsilons=epsilons)
        many = isinstance(epsilons, list)
        assert torch.equal(clipped[0] if many else clipped, given)
        assert torch.equal(won[0] if many else won, wrong != LABELS)
        assert not many or won[1].sum() > won[0].sum()
    aimed = foolbox.criteria.TargetedMisclassification(LABELS)
    assert foolbox.LinfPGD()(fmodel, given, aimed, epsilons=0.0)[2].all()
    with pytest.raises(ValueError, match=r"epsilons must be at least 0, got -0\.1"):
        getattr(foolbox, name)()(fmodel, given, wrong, epsilons=-0.1)


def test_deepfool_of_torchattacks_looks_at_all_classes():
    """The nearest boundary is that of the class that is least likely on the clean image."""
    weight = torch.zeros(12, 36)
    weight[1:11, 1] = 0.01  # likely, and far away in every direction
    weight[11, 2] = 9.0

    class Plane(nn.Module):
        def forward(self, x):
            bias = torch.tensor([1.0, *[0.9] * 10, -4.0])
            return x.flatten(1) @ weight.T + bias

    images = torch.full((2, 1, 6, 6), 0.5)
    attack = torchattacks.DeepFool(Plane())
    adv = attack(images, torch.tensor([0, 0]))
    assert (Plane()(adv).argmax(1) == 11).all()
    changed = (adv - images).flatten(1).abs()
    assert (changed.argmax(1) == 2).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_keep_the_dtype_of_half_images(dtype):
    pixels = torch.linspace(0, 1, 256)[None, None].expand(1, 3, 1, 256).to(dtype)
    scale = Scale.of([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    outward = scale.outward(pixels)
    mean, std = scale.mean.float(), scale.std.float()
    assert outward.dtype == dtype
    assert torch.equal(outward, ((pixels.float() - mean) / std).to(dtype))
    for given in (outward, Range(-3.0, 5.0).outward(pixels)):
        back = (scale if given is outward else Range(-3.0, 5.0)).inward(given)
        assert back.dtype == dtype
        assert ((back >= 0) & (back <= 1)).all()
        assert (back.float() - pixels.float()).abs().max() <= 4 * torch.finfo(dtype).eps


def test_the_numbers_of_a_scale_are_brought_to_the_images_once():
    """A copy from the host in every forward pass is slow, and no graph may capture it."""
    scale = Scale.of(torch.tensor([0.4, 0.5, 0.6]), [0.2, 0.3, 0.25])
    images = torch.rand(2, 3, 4, 4)
    first = scale.outward(images)

    class NoCopies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert "copy" not in func.name()
            return func(*args, **(kwargs or {}))

    with NoCopies():
        assert torch.equal(scale.outward(images), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_models_take_images_that_are_scaled(dtype):
    half = conv().to(dtype)
    images = IMAGES.to(dtype)

    class Normalised(nn.Module):
        def forward(self, x):
            assert x.dtype == dtype
            return half(x)

    attack = torchattacks.BIM(Normalised(), eps=0.1)
    attack.set_normalization_used([0.4], [0.3])
    adv = attack(Scale.of(0.4, 0.3).outward(images), LABELS)
    assert adv.dtype == dtype
    assert ((adv * 0.3 + 0.4 - images).abs() > 0).any()
    fmodel = foolbox.PyTorchModel(
        Normalised(), (0, 255), preprocessing={"mean": 100.0, "std": 60.0}
    )
    raw, _, _ = foolbox.LinfPGD()(fmodel, images * 255, LABELS, epsilons=20.0)
    assert raw.dtype == dtype
    assert ((raw >= 0) & (raw <= 255)).all()


@pytest.mark.parametrize("name", ["DeepFool", "APGD", "APGDT", "AutoAttack"])
def test_what_torchattacks_cannot_aim_is_refused(name):
    attack = getattr(torchattacks, name)(MODEL)
    assert attack.supported_mode == ["default"]
    for switch in (
        attack.set_mode_targeted_random,
        attack.set_mode_targeted_by_label,
        attack.set_mode_targeted_least_likely,
        lambda: attack.set_mode_targeted_by_function(lambda x, y: y),
    ):
        with pytest.raises(ValueError, match=f"^{name}: Targeted mode is not supported"):
            switch()
    assert attack.get_mode() == "default"


def test_a_rank_beyond_the_other_classes_is_refused():
    attack = torchattacks.FGSM(MODEL)
    attack.set_mode_targeted_least_likely(3)
    attack(IMAGES, LABELS)
    attack.set_mode_targeted_least_likely(4)
    with pytest.raises(ValueError, match=r"kth_min must be at most 3, .*got 4"):
        attack(IMAGES, LABELS)


def test_a_criterion_that_deepfool_of_foolbox_cannot_take_is_refused():
    fmodel = foolbox.PyTorchModel(MODEL, (0, 1))
    aimed = foolbox.criteria.TargetedMisclassification((LABELS + 1) % 4)
    with pytest.raises(ValueError, match="deepfool cannot aim at a class"):
        foolbox.L2DeepFoolAttack()(fmodel, IMAGES, aimed, epsilons=0.5)


def test_modes_of_layers_are_left_as_they_were():
    model = nn.Sequential(MODEL, nn.Dropout(0.0), nn.Identity())
    model.eval()[1].train()
    attack = torchattacks.FGSM(model)
    attack.set_mode_targeted_least_likely()
    with pytest.warns(UserWarning, match="train mode"):
        attack(IMAGES, LABELS)
    assert [part.training for part in (model, *model)] == [False, False, True, False]
