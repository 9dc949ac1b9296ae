"""A pool's base and candidates on a device, and the deltas merged from them, each merged once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.errors import PoolError
from negmerge_kit.merging import LayerAgreement, MergeCounts, merge, sign_agreement
from negmerge_kit.types import Json, Weights
from negmerge_kit.vision.layers import split_attention

CACHED_DELTAS = 16


@dataclass(frozen=True)
class Choice:
    """Which candidates merge, by which rule, with which parameters: the key of a merged delta.

    >>> Choice(("a", "b"), "uniform", ()).json()
    {'candidates': ['a', 'b'], 'rule': 'uniform', 'params': {}, 'buffers': 'keep'}
    """

    candidates: tuple[str, ...]
    rule: str
    params: tuple[tuple[str, Any], ...]
    buffers: str = "keep"

    def json(self) -> Json:
        """Plain values for a record of what was done."""
        return {
            "candidates": list(self.candidates),
            "rule": self.rule,
            "params": dict(self.params),
            "buffers": self.buffers,
        }


@dataclass(frozen=True)
class Merged:
    """A merged delta over the tensors that moved, on the device, and what it keeps."""

    delta: dict[str, Tensor]
    counts: MergeCounts
    seconds: float


class ResidentDeltas:
    """The base, and of each candidate the tensors that fine-tuning moved, on the base's device.

    Tensors that a candidate did not move are held once, as the base's own.
    """

    def __init__(self, base: dict[str, Tensor]) -> None:
        self.base: Weights = base
        self._moved: dict[str, dict[str, Tensor]] = {}
        self._merged: OrderedDict[Choice, Merged] = OrderedDict()

    def merged(self, pool: Pool, choice: Choice) -> Merged:
        """The choice's delta, merged once and then cached.

        Raises:
            PoolError: if a candidate's file is missing, changed or of another model.
        """
        if choice in self._merged:
            self._merged.move_to_end(choice)
            return self._merged[choice]
        started = time.perf_counter()
        views = self._views(pool, choice.candidates)
        device = next(iter(self.base.values())).device
        stream = merge(
            self.base, views, rule=choice.rule, device=device, buffers=choice.buffers, **dict(choice.params)
        )  # fmt: skip
        moved = set().union(*(self._moved[id] for id in choice.candidates))
        delta = {name: tensor for name, tensor in stream if name in moved}
        self._merged[choice] = Merged(delta, stream.counts, time.perf_counter() - started)
        if len(self._merged) > CACHED_DELTAS:
            self._merged.popitem(last=False)
        return self._merged[choice]

    def agreement(self, pool: Pool, ids: Sequence[str]) -> list[LayerAgreement]:
        """Sign agreement by tensor, with fused attention shown as q, k and v, over the tensors that moved."""
        views = self._views(pool, ids)
        moved = [name for name in self.base if any(name in self._moved[id] for id in ids)]

        def shown(weights: Weights) -> Weights:
            return split_attention({name: weights[name] for name in moved})

        return list(sign_agreement(shown(self.base), [shown(view) for view in views]))

    def _views(self, pool: Pool, ids: Sequence[str]) -> list[Weights]:
        """The candidates, in which a tensor that did not move is the base's own object.

        The fold knows such tensors for zero deltas without reading them.
        """
        for id in ids:
            if id not in self._moved:
                self._moved[id] = self._load(pool, id)
        return [{**self.base, **self._moved[id]} for id in ids]

    def _load(self, pool: Pool, id: str) -> dict[str, Tensor]:
        weights = pool.candidate(id)
        if set(weights) != set(self.base):
            raise PoolError(f"candidate {id} does not hold the base's tensors: it belongs to another model; remove it.")
        moved = {}
        for name, tensor in weights.items():
            tensor = tensor.to(self.base[name].device)
            if not torch.equal(tensor, self.base[name]):
                moved[name] = tensor
        return moved
