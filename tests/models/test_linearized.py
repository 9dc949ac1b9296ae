"""Tangent models: the base's features at the base, its derivative around it, and linear in between."""

import pytest
import torch

from negmerge_kit.data.embedded import family_images
from negmerge_kit.models.linearized import linearize
from negmerge_kit.models.load import load_model

IMAGES = family_images("digits", "val").images[:3]


@pytest.fixture(scope="module")
def base():
    return load_model("tiny", device="cpu")


def _delta(base, size=0.02):
    noise = torch.Generator().manual_seed(1)
    return {
        name: size * torch.randn(tensor.shape, generator=noise) * tensor.std().nan_to_num(1)
        for name, tensor in base.weights().items()
        if name.startswith("visual.")
    }


def _moved(linear, base, delta, scale):
    weights = base.weights()
    linear.load((name, tensor + scale * delta[name] if name in delta else tensor) for name, tensor in weights.items())
    with torch.no_grad():
        return linear.raw(linear.pixels(IMAGES))


def test_at_the_base_features_and_heads_are_the_models_own(base):
    linear = linearize(base)
    torch.testing.assert_close(linear.features(IMAGES), base.features(IMAGES), rtol=0, atol=1e-6)
    assert linear.mode == "linear" and base.mode == "standard"
    assert linear.heads.keys() == base.heads.keys() and list(linear.weights()) == list(base.weights())
    linear.tower.proj.data.zero_()
    assert bool(base.tower.proj.any())  # a copy


def test_the_change_is_the_derivative_of_the_features(base):
    """Against central differences of the plain model in float64."""
    linear, plain, delta = linearize(base), linearize(base).clip.double(), _delta(base)
    change = _moved(linear, base, delta, 1.0) - _moved(linear, base, delta, 0.0)
    pixels, step, ends = base.pixels(IMAGES).double(), 1e-4, []
    for sign in (1, -1):
        plain.load_state_dict(
            {
                name: tensor.double() + (sign * step * delta[name] if name in delta else 0)
                for name, tensor in base.weights().items()
            }
        )
        with torch.no_grad():
            ends.append(plain.encode_image(pixels))
    torch.testing.assert_close(change.double(), (ends[0] - ends[1]) / (2 * step), rtol=1e-3, atol=1e-4)
    assert float(change.norm()) > 0.1  # there was something to compare


def test_scaling_a_delta_scales_the_change(base):
    linear, delta = linearize(base), _delta(base, size=0.5)
    start = _moved(linear, base, delta, 0.0)
    whole = _moved(linear, base, delta, 1.0) - start
    for scale in (-1.0, 0.3, 2.0):
        torch.testing.assert_close(_moved(linear, base, delta, scale) - start, scale * whole, rtol=1e-4, atol=1e-4)


def test_a_new_base_is_the_new_anchor(base):
    linear, delta = linearize(base), _delta(base)
    other = load_model("tiny", device="cpu")
    other.load((name, tensor + delta.get(name, 0)) for name, tensor in base.weights().items())
    linear.load(other.weights().items())
    assert float((linear.features(IMAGES) - other.features(IMAGES)).abs().max()) > 1e-4
    linear.anchor()
    torch.testing.assert_close(linear.features(IMAGES), other.features(IMAGES), rtol=0, atol=1e-6)
