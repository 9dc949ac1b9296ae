"""The fold as one compiled loop: every input byte is read once, nothing in between touches memory."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.rule import Rule, Settings

Kernel: TypeAlias = Callable[[Tensor, list[Tensor], Tensor], tuple[Tensor, Tensor, Tensor]]
WORTH = 1 << 31
"""Elements times candidates above which compiling (3 to 20 s the first time) pays for itself."""
LEAST = 1 << 10
"""Elements of a tensor below which a call costs more than it saves."""
PIECE = 1 << 26
"""Elements of one call: counts fit 32 bits with room to spare."""

log = logging.getLogger(__name__)
_compiled: dict[Any, Kernel | None] = {}


def fusable(rule: Rule) -> bool:
    """Rules whose elements depend on themselves alone, and not on their place: one kernel serves every tensor.

    >>> from negmerge_kit.merging.rules import RULES
    >>> [name for name, rule in RULES.items() if fusable(rule)]
    ['negmerge', 'uniform', 'task-arithmetic', 'magmax', 'consensus-mask', 'conflict']
    """
    return rule.elementwise and not any(parameter.name == "seed" for parameter in rule.parameters)


@cache
def compiler_present(device: str = "cpu") -> bool:
    """Whether torch.compile has what it needs: a C++ compiler, or Triton on a GPU."""
    if device == "cuda":
        return bool(torch.utils._triton.has_triton())
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++", "cl") if name)


def find_kernel(
    rule: Rule, settings: Settings, given: Sequence[bool], device: str, work: int, engine: str, dtype: torch.dtype
) -> Kernel | None:
    """The compiled loop, if there is one or it is worth making; None means that plain torch is to be used.

    `engine` is `auto` (compiled before in this process, or enough `work` = elements times candidates), `fused` or
    `plain`. The loop fills its third argument and returns how many elements moved, how many it kept, and a sum that
    is finite if all inputs are.
    """
    if engine == "plain" or not fusable(rule) or not compiler_present(device):
        return None
    key = (rule.name, tuple(sorted(settings.items())), tuple(given), device, dtype)
    if key not in _compiled:
        if engine == "auto" and work < WORTH:
            return None
        _compiled[key] = _guarded(key, _compile(rule, dict(settings), tuple(given)))
    return _compiled[key]


def _compile(rule: Rule, settings: Settings, given: tuple[bool, ...]) -> Kernel:
    def fold(base: Tensor, candidates: list[Tensor], merged: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        deltas = Deltas(base, candidates, given=given)
        merged.copy_(rule.combine(deltas, settings, None))
        moved = deltas.moved().to(torch.int32).sum(dtype=torch.int32)  # 32 bits: twice the lanes of 64
        kept = (merged != 0).to(torch.int32).sum(dtype=torch.int32)
        return moved, kept, deltas.total.sum()

    # torch counts compilations by code object and stops at eight: every kernel gets one of its own.
    fold.__code__ = fold.__code__.replace(co_name=f"fold_{rule.name}_{len(given)}")
    return torch.compile(fold, dynamic=True, fullgraph=True)


def _guarded(key: Any, kernel: Kernel) -> Kernel:
    """Falls back to plain torch for good when compiling fails: a half-installed compiler must not stop a merge."""

    def guarded(base: Tensor, candidates: list[Tensor], merged: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        try:
            return kernel(base, candidates, merged)
        except (RuntimeError, OSError) as error:
            log.warning("torch.compile failed (%s): merging goes on in plain torch.", str(error).splitlines()[0])
            _compiled[key] = None
            raise FusedUnavailable from error

    return guarded


class FusedUnavailable(RuntimeError):
    """Compiling failed on this machine; the caller repeats the piece in plain torch."""
