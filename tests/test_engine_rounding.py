import pytest
import torch

from deitsec.engine.rounding import Rounding

LEVEL = 1 / 255


def images():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(6, 3, 16, 16, generator=generator)  # between levels
    change = torch.randn(clean.shape, generator=generator)
    return clean, change


@pytest.mark.parametrize(("norm", "order", "eps"), [("l2", 2, 0.5), ("l1", 1, 8.0)])
def test_rounding_stays_in_the_ball_of_a_norm(norm, order, eps):
    clean, change = images()
    clean = (clean * 255).round() / 255
    size = change.flatten(1).norm(order, dim=1)[:, None, None, None]
    x = (clean + eps * change / size).clamp(0, 1)
    found = Rounding(norm=norm, eps=eps)(x, clean)
    assert torch.equal(found, (found * 255).round() / 255)
    assert ((found - clean).flatten(1).norm(order, dim=1) <= eps * (1 + 1e-5)).all()


def test_rounding_stays_within_eps_of_an_image_between_levels():
    clean, change = images()
    eps = 2 * LEVEL
    x = (clean + eps * change.sign()).clamp(0, 1)
    found = Rounding(norm="linf", eps=eps)(x, clean)
    assert torch.equal(found, (found * 255).round() / 255)
    assert (found - clean).abs().max() <= eps + 1e-3 * LEVEL + 1e-7
