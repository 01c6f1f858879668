"""Batch norms folded into convolutions: the same answers and gradients, and undone at the end."""

import pytest
import torch
from torch import nn

from deitsec.models import build_own
from deitsec.training.folding import folded


def trained(module):
    """With running statistics and affine weights that are no identity."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.weight, norm.bias):
                if tensor is not None:
                    tensor.data.normal_()
            if norm.running_var is not None:
                norm.running_var.uniform_(0.1, 3)
    return module.double().eval()


def answers(module, images):
    x = images.clone().requires_grad_()
    out = module(x)
    (grad,) = torch.autograd.grad(out.flatten(1).logsumexp(1).sum(), x)
    return out.detach(), grad


def pair(**options):
    bias, affine = options.get("bias", True), options.get("affine", True)
    return nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5, affine=affine)


MODULES = {
    "small_cnn": lambda: build_own("small_cnn", in_chans=3, image_size=8),
    "bias": lambda: nn.Sequential(*pair(), nn.ReLU()),
    "no bias": lambda: nn.Sequential(*pair(bias=False), nn.ReLU()),
    "no affine": lambda: nn.Sequential(*pair(affine=False), nn.ReLU()),
}


@pytest.mark.parametrize("name", MODULES)
def test_answers_and_gradients_are_those_of_the_module(name):
    torch.manual_seed(0)
    module, images = trained(MODULES[name]()), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    before = answers(module, images)
    ran = []
    native = nn.functional.batch_norm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            nn.functional, "batch_norm", lambda *a, **k: (ran.append(1), native(*a, **k))[1]
        )
        with folded(module):
            found = answers(module, images)
    assert not ran  # else nothing was folded
    for tensor, expected in zip(found, before, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-10, atol=1e-12)
    for tensor, expected in zip(answers(module, images), before, strict=True):
        assert torch.equal(tensor, expected)


class Tapped(nn.Module):
    """Uses the convolution twice, once without its norm."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = pair()
        self.body = nn.Sequential(self.convolution, self.norm)

    def forward(self, images):
        return self.body(images) + self.convolution(images)


def hooked():
    module = nn.Sequential(*pair())
    module[0].register_forward_hook(lambda *_: None)
    return module


class Residual(nn.Sequential):
    """Looks at what is between its parts."""

    def forward(self, images):
        between = self[0](images)
        return self[1](between) + between


@pytest.mark.parametrize("build", [Tapped, hooked, lambda: Residual(*pair())])
def test_what_may_not_belong_together_is_left_alone(build):
    module, images = trained(build()), torch.rand(4, 3, 8, 8, dtype=torch.float64)
    before = answers(module, images)
    with folded(module):
        for tensor, expected in zip(answers(module, images), before, strict=True):
            assert torch.equal(tensor, expected)


def test_a_norm_that_learns_is_left_alone():
    module = nn.Sequential(*pair())
    module.eval()
    module[1].train()
    with folded(module):
        module(torch.rand(4, 3, 8, 8))
    assert module[1].num_batches_tracked == 1


def test_it_is_unfolded_after_an_error():
    module = trained(nn.Sequential(*pair()))
    with pytest.raises(RuntimeError), folded(module):
        module(torch.rand(2, 4, 8, 8, dtype=torch.float64))
    assert all("forward" not in part.__dict__ for part in module.modules())
