"""Round-to-nearest quantisation of a weight tensor: the values that a model stored in fewer bits computes with."""

from __future__ import annotations

from torch import Tensor

PRECISIONS = {"bf16": None, "INT8": 8, "INT4": 4}
"""Bits of the integers of each precision; None for a floating one."""


def round_to(weight: Tensor, precision: str) -> Tensor:
    """The weight rounded to one of PRECISIONS, in its own dtype: what it is after storing and reading back.

    Integers of b bits are symmetric, with a step for each output channel c, the first axis: s_c = max|w_c| / m with
    m = 2^(b−1) − 1, and w' = s_c · round(w / s_c), ties to even: the integers −m to m (round-to-nearest, as in Zhang et
    al. 2024, https://arxiv.org/abs/2410.16454, by channel). A channel of zeros stays as it is.

    Args:
        weight: [C, ...], at least two axes.
        precision: a key of PRECISIONS.

    >>> import torch
    >>> [round(value, 2) for value in round_to(torch.tensor([[7.0, -3.4, 0.4]]), "INT4")[0].tolist()]
    [7.0, -3.0, 0.0]
    """
    bits = PRECISIONS[precision]
    if bits is None:
        return weight.bfloat16().to(weight.dtype)
    # In float64 the largest element comes back to its own bits, so that rounding again changes nothing.
    channels = weight.double().flatten(1)
    step = channels.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    whole = (channels / step.where(step != 0, 1)).round()
    rounded: Tensor = (whole * step).view_as(weight).to(weight.dtype)
    return rounded
