"""The split of the published classifier protocol, with the mismatch that it has and, of CIFAR-10, its very indices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

BASE_SEED = 1
"""The published original model is trained with seed 1, whatever seed unlearning is run with."""


def published_split(labels: Tensor, *, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places of the images that the base saw, the forgotten, the remaining, and those that neither saw.

    The protocol of SalUn (https://arxiv.org/abs/2310.12508), which the paper's tables follow, holds a tenth of every
    class out for validation by the seed of the run. Its original model was trained with seed 1, its unlearning is run
    with seed 2: so about a tenth of the images "to forget" were never seen by the model, and a tenth of those that it
    saw are in neither set. Forgotten images are drawn from seed - 1. What neither run trained on, a hundredth of the
    images, is all that may validate here.

    Places are the reference code's indices where `labels` are in the order of its training set, torchvision's; in any
    other order, as a folder's, the protocol is the same but its images are not.

    >>> seen, forgotten, remaining, held = published_split(torch.arange(5000) % 10, share=0.1, seed=2)
    >>> len(seen), len(forgotten), len(remaining), 25 < int((~torch.isin(forgotten, seen)).sum()) < 65
    (4500, 450, 4050, True)
    """
    ours, theirs = _held_out(labels, seed), _held_out(labels, BASE_SEED)
    every = np.arange(len(labels))
    known = np.setdiff1d(every, ours)
    chosen = np.random.RandomState(seed - 1).choice(len(known), int(share * len(known)), replace=False)
    forgotten = np.sort(known[chosen])
    parts = (np.setdiff1d(every, theirs), forgotten, np.setdiff1d(known, forgotten), np.intersect1d(ours, theirs))
    seen, to_forget, remaining, held = (torch.from_numpy(part.astype(np.int64)) for part in parts)
    return seen, to_forget, remaining, held


def _held_out(labels: Tensor, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A tenth of every class."""
    random, numbers = np.random.RandomState(seed), labels.cpu().numpy()
    drawn = [
        random.choice(np.flatnonzero(numbers == label), int(0.1 * np.sum(numbers == label)), replace=False)
        for label in range(int(numbers.max()) + 1)
    ]
    return np.concatenate(drawn)
