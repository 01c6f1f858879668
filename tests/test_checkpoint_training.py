"""How a checkpoint was trained reaches the report of its verification."""

from deitsec.data import load_data
from deitsec.models import build_own, save_checkpoint
from deitsec.verification.subject import ModelRequest, obtain


def test_a_checkpoint_says_how_it_was_trained(tmp_path):
    data = load_data("digits")
    model = build_own("logistic_regression", in_chans=1, image_size=32)
    for name, training in (("hot", {"method": "defensive", "temperature": 20.0}), ("bare", None)):
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(model, path, training=training)
        _, origin = obtain(ModelRequest(name=None, checkpoint=str(path)), data)
        assert origin.training == training
