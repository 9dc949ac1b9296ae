"""A pool's base and candidates on a device, and the deltas merged from them, each merged once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from negmerge_kit.errors import PoolError
from negmerge_kit.merging import LayerAgreement, MergeCounts, merge, sign_agreement
from negmerge_kit.merging.layout import layout_of
from negmerge_kit.models.layers import split_attention
from negmerge_kit.pools.pool import Pool
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.types import Json, Weights

CACHE_BYTES = 512 << 20
"""Merged deltas are kept up to this, and on a GPU up to a quarter of what is free; four always are on the CPU."""


T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """Which candidates merge, by which rule, with which parameters: the key of a merged delta.

    `files` are the SHA-256 of the candidates' files, so that nothing that was kept for a file is taken for another of
    the same id: a damaged one that was made again need not have the same bits on every device.

    >>> Choice(("a", "b"), "uniform", ()).json()
    {'candidates': ['a', 'b'], 'rule': 'uniform', 'params': {}, 'buffers': 'keep'}
    """

    candidates: tuple[str, ...]
    rule: str
    params: tuple[tuple[str, Any], ...]
    buffers: str = "keep"
    files: tuple[str, ...] = ()

    @property
    def voters(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The candidates and their files: the key of what depends on no rule, such as the votes."""
        return self.candidates, self.files

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

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        return sum(tensor.nbytes for tensor in self.delta.values())


@dataclass(frozen=True)
class _Held:
    """One candidate: its file, the names of what it moved, and these as they are resident, if they are."""

    sha256: str
    weights: Weights
    moved: frozenset[str]
    tensors: dict[str, Tensor]


class DeltaCache:
    """The base, and of each candidate the tensors that fine-tuning moved, on the base's device as far as they fit.

    Tensors that a candidate did not move are held once, as the base's own. When the device runs out of memory,
    candidates are read from disk from then on, and if that is still too much a merge is done on the CPU: float32 all
    along, so that its numbers are the same.

    Attributes:
        mode: how candidates are held; None until the first one is needed.
        ran_out: whether the device has run out of memory.
    """

    def __init__(self, base: dict[str, Tensor]) -> None:
        self.base: Weights = base
        self.device = next(iter(base.values())).device
        self.mode: MemoryMode | None = None
        self.ran_out = False
        self._held: dict[str, _Held] = {}
        self._merged: OrderedDict[tuple[Choice, bool], Merged] = OrderedDict()
        self._budget = CACHE_BYTES

    @property
    def given_up(self) -> str:
        """What was given up because memory ran out, in words; empty where nothing was."""
        if self.ran_out:
            return "this device ran out of memory: candidates are read from disk for every merge, the numbers stay"
        return GIVEN_UP[self.mode or "float32"]

    def merged(self, pool: Pool, choice: Choice, *, exact: bool = True) -> Merged:
        """The choice's delta, merged once and then cached.

        Where changes are held in bfloat16 an `exact` delta is merged from disk in float32, any other from them.

        Raises:
            PoolError: if a candidate's file is missing, changed or of another model, or was made again since it was
                chosen.
        """
        if self.mode != "bfloat16":
            exact = True
        if (choice, exact) in self._merged:
            self._merged.move_to_end((choice, exact))
            return self._merged[choice, exact]
        if choice.files and choice.files != tuple(pool.entry(id).sha256 for id in choice.candidates):
            raise PoolError("a candidate was made again since it was chosen: choose the candidates again.")
        found = self._stepping_down(lambda device: self._merge(pool, choice, device, exact=exact))
        # What is resident is decided when the first candidate is loaded, and again when memory runs out.
        self._merged[choice, exact or self.mode != "bfloat16"] = found
        while len(self._merged) > 1 and sum(kept.bytes for kept in self._merged.values()) > self._budget:
            self._merged.popitem(last=False)
        return found

    def agreement(self, pool: Pool, ids: Sequence[str], *, report: ProgressFn = no_progress) -> list[LayerAgreement]:
        """Sign agreement by tensor, with fused attention shown as q, k and v, over the tensors that moved."""
        return self._stepping_down(lambda device: self._agreement(pool, ids, device, report))

    def stream(self) -> None:
        """Hold no candidate and no merged delta any more: the device has run out of memory."""
        self.mode, self.ran_out = "streamed", True
        self._merged.clear()
        for held in self._held.values():
            held.tensors.clear()
        empty_cache(self.device)

    def _stepping_down(self, work: Callable[[torch.device], T]) -> T:
        device = self.device
        while True:
            try:
                return work(device)
            except torch.OutOfMemoryError:
                if device != self.device or (self.mode == "streamed" and device.type == "cpu"):
                    raise
            # Outside of the handler, which keeps the tensors of the failed work alive.
            if self.mode == "streamed":
                device = torch.device("cpu")
            self.stream()

    def _merge(self, pool: Pool, choice: Choice, device: torch.device, *, exact: bool) -> Merged:
        started = time.perf_counter()
        held = self._hold(pool, choice.candidates)
        rounded = self.mode == "bfloat16" and not exact
        views = [Rounded(one.tensors) if rounded else self._view(one) for one in held]
        stream = merge(self.base, views, rule=choice.rule, device=device, buffers=choice.buffers, **dict(choice.params))
        moved = frozenset[str]().union(*(one.moved for one in held))
        delta = {name: tensor for name, tensor in stream if name in moved}
        return Merged(delta, stream.counts, time.perf_counter() - started)

    def _agreement(
        self, pool: Pool, ids: Sequence[str], device: torch.device, report: ProgressFn
    ) -> list[LayerAgreement]:
        held = self._hold(pool, ids)
        moved = [name for name in self.base if any(name in one.moved for one in held)]
        if self.mode == "bfloat16":  # changes with a base of zeros: the same signs
            still = {name: torch.zeros_like(self.base[name], dtype=torch.bfloat16) for name in moved}
            views: list[Weights] = [{**still, **one.tensors} for one in held]
            base: Weights = split_attention(still)
            tuned: list[Weights] = [split_attention(view) for view in views]
        else:

            def shown(weights: Weights) -> Weights:
                return split_attention({name: weights[name] for name in moved})

            base, tuned = shown(self.base), [shown(self._view(one)) for one in held]
        layers: list[LayerAgreement] = []
        for layer in sign_agreement(base, tuned, device=device):
            layers.append(layer)
            report(Progress("Counting the votes of this choice", len(layers) / len(base)))
        return layers

    def _view(self, held: _Held) -> Weights:
        """A candidate in which a tensor that did not move is the base's own object.

        The fold knows such tensors for zero deltas without reading them.
        """
        if self.mode == "float32":
            return {**self.base, **held.tensors}
        return Streamed(self.base, held.weights, held.moved)

    def _hold(self, pool: Pool, ids: Sequence[str]) -> list[_Held]:
        for id in ids:
            if id not in self._held or self._held[id].sha256 != pool.entry(id).sha256:
                self._held[id] = self._load(pool, id)
        return [self._held[id] for id in ids]

    def _load(self, pool: Pool, id: str) -> _Held:
        weights = pool.candidate(id)
        if set(weights) != set(self.base):
            raise PoolError(f"candidate {id} does not hold the base's tensors: it belongs to another model; remove it.")
        moved = frozenset(
            name for name, tensor in weights.items() if not torch.equal(tensor.to(self.device), self.base[name])
        )
        if self.mode is None:
            self._decide(moved, len(pool.ids))
        tensors = {}
        if self.mode == "float32":
            tensors = {name: weights[name].to(self.device) for name in moved}
        elif self.mode == "bfloat16":
            for name in moved:
                change = weights[name].to(self.device, torch.float32) - self.base[name].float()
                tensors[name] = change.bfloat16()
        return _Held(pool.entry(id).sha256, weights, moved, tensors)

    def _decide(self, moved: frozenset[str], candidates: int) -> None:
        delta = sum(self.base[name].nbytes for name in moved)
        halved = sum(2 * self.base[name].numel() for name in moved)
        free = free_memory(self.device)
        self.mode = choose_memory_mode(candidates * delta, candidates * halved, delta, free)
        self._budget = max(CACHE_BYTES, 4 * delta) if free is None else free // 4


MemoryMode = Literal["float32", "bfloat16", "streamed"]

SHARE = 0.8
"""Of the free memory, this much may be taken: forward passes need the rest."""
SPARE_DELTAS = 3
"""Merged deltas that must fit together with the candidates: the one shown, the next one, and room to merge it."""

GIVEN_UP: Mapping[MemoryMode, str] = {
    "float32": "",
    "bfloat16": "sliders use changes rounded to bfloat16, because float32 does not fit on this device; searches, "
    "scores of whole splits and files are float32, read from disk",
    "streamed": "candidates are read from disk for every merge, because they do not fit on this device",
}


def choose_memory_mode(whole: int, halved: int, delta: int, free: int | None) -> MemoryMode:
    """The best way that fits: everything as it is stored, changes in bfloat16, or read from disk for every merge.

    Args:
        whole: bytes of all candidates' moved tensors as they are stored.
        halved: bytes of the same as bfloat16 changes.
        delta: bytes of one merged delta.
        free: bytes that the device has left; None where it is unknown, as on the CPU, whose files are mapped anyway.

    >>> [choose_memory_mode(100, 50, 10, free) for free in (None, 200, 100, 50)]
    ['float32', 'float32', 'bfloat16', 'streamed']
    """
    if free is None:
        return "float32"
    room = SHARE * free - SPARE_DELTAS * delta
    if whole <= room:
        return "float32"
    return "bfloat16" if halved <= room and halved < whole else "streamed"


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors can still take on a device; None on the CPU."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return None


def empty_cache(device: torch.device) -> None:
    """Give memory that no tensor uses any more back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class Rounded(dict[str, Tensor]):
    """The changes τ of the tensors that one candidate moved, in bfloat16: signs and zeros are float32's own.

    The exponent has float32's range, so that only moves below 1e-38 vanish; values keep eight bits.
    """

    holds_deltas = True


class Streamed(Mapping[str, Tensor]):
    """A candidate on disk: tensors that it did not move are the base's own objects, the others views of its file."""

    def __init__(self, base: Weights, weights: Weights, moved: frozenset[str]) -> None:
        self._base, self._weights, self._moved = base, weights, moved

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name] if name in self._moved else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def layout(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """The base's shapes and dtypes; without it every tensor would be read to say them."""
        return layout_of(self._base)
