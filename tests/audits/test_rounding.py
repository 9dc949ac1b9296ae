"""Rounding by output channel, by hand and against torch's own fake quantisation."""

import pytest
import torch

from negmerge_kit.audits.rounding import PRECISIONS, round_to

BY_HAND = [
    ("a channel of zeros", [[0.0, 0.0, -0.0]], [[0.0, 0.0, 0.0]]),
    # steps of 1: halves go to the even neighbour, so 0.5 -> 0, 1.5 -> 2
    ("ties", [[7.0, 0.5, 1.5, -2.5]], [[7.0, 0.0, 2.0, -2.0]]),
    # the step is 100, and what is below half of it is gone
    ("one outlier", [[700.0, 49.0, -51.0, 1.0]], [[700.0, 0.0, -100.0, 0.0]]),
    # the most negative sets the step and stays; +7.9 is 7.9 / 2 = 3.95 steps
    ("negative extremes", [[-14.0, 7.9, -13.1, -12.9]], [[-14.0, 8.0, -14.0, -12.0]]),
    # each row has a step of its own: 1 and 0.01
    ("two channels", [[7.0, 0.03], [0.07, 0.034]], [[7.0, 0.0], [0.07, 0.03]]),
]


@pytest.mark.parametrize(("case", "weight", "expected"), BY_HAND, ids=[case for case, *_ in BY_HAND])
def test_int4_by_hand(case, weight, expected):
    assert round_to(torch.tensor(weight), "INT4").tolist() == torch.tensor(expected).tolist()


def test_bf16_keeps_eight_significant_bits():
    weight = torch.tensor([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.0e38, 1e-40]])
    assert round_to(weight, "bf16")[0, :3].tolist() == [1.0, 1.0, 1 + 2**-6]
    assert round_to(weight, "bf16").dtype == torch.float32


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_again_changes_nothing(precision, dtype):
    weight = torch.randn(64, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    once = round_to(weight, precision)
    assert once.dtype == dtype and once.shape == weight.shape
    assert torch.equal(round_to(once, precision), once)


@pytest.mark.parametrize(("precision", "most"), [("INT8", 127), ("INT4", 7)])
def test_integers_are_those_of_torch(precision, most):
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    step = weight.abs().amax(1) / most
    expected = torch.fake_quantize_per_channel_affine(weight, step, torch.zeros(40, dtype=torch.int32), 0, -most, most)
    found = round_to(weight, precision)
    assert torch.allclose(found, expected, rtol=1e-5, atol=0)
    assert all(len(row.unique()) <= 2 * most + 1 for row in found)
    assert bool(((found - weight).abs() <= step[:, None] / 2 * (1 + 1e-5)).all())
