"""Low-rank adapters as task vectors: the product of their factors, scaled (arXiv:2106.09685)."""

from __future__ import annotations

import torch
from torch import Tensor


def low_rank_scale(alpha: float, rank: int, *, rank_stabilised: bool = False) -> float:
    """alpha / r, or alpha / √r for rank-stabilised adapters (arXiv:2312.03732).

    >>> low_rank_scale(16, 8), low_rank_scale(16, 4, rank_stabilised=True)
    (2.0, 8.0)
    """
    return alpha / (rank**0.5 if rank_stabilised else rank)


def low_rank_delta(a: Tensor, b: Tensor, scale: float, *, transposed: bool = False) -> Tensor:
    """The delta scale · B A in float32, of the shape of the weight that the adapter changes.

    Linear: A [r, in], B [out, r] give [out, in]; convolution: A [r, in, h, w], B [out, r, 1, 1] give
    [out, in, h, w]. `transposed` gives the transpose of a matrix, for embeddings and for weights stored [in, out].

    >>> low_rank_delta(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]]), 0.5)
    tensor([[1.5000, 3.0000],
            [0.0000, 0.0000]])
    """
    product = b.to(torch.float32).flatten(1) @ a.to(torch.float32).flatten(1) * scale
    product = product.reshape(b.shape[0], *a.shape[1:])
    return product.T.contiguous() if transposed else product
