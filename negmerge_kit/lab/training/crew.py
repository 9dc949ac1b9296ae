"""The processes that train one candidate together: each takes a part of every batch, gradients are added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Crew:
    """This process's place among those that train together; alone unless torch.distributed is initialised.

    >>> Crew().part(torch.arange(3)).tolist(), Crew(1, 2).part(torch.arange(3)).tolist()
    ([0, 1, 2], [2])
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def present(cls) -> Crew:
        """The crew of this process's default group."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def part(self, places: Tensor) -> Tensor:
        """This process's part of a batch: the parts differ by one image at most, and may be empty."""
        return places.tensor_split(self.size)[self.rank] if self.size > 1 else places

    def add_up(self, weights: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Sum the weights' gradients over the crew, in place, and return the summed loss.

        Every process has scaled its loss by its share of the batch, so the sums are the whole batch's mean and its
        gradient, ragged batches included. One all-reduce a step: candidates are small beside what a link carries.
        """
        if self.size == 1:
            return loss
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), loss.reshape(1).to(gradients[0].dtype)])
        dist.all_reduce(flat)
        total: Tensor
        *sums, total = flat.split([*(gradient.numel() for gradient in gradients), 1])
        for weight, summed in zip(weights, sums, strict=True):
            weight.grad = summed.view_as(weight)
        return total.squeeze()
