"""Shared type aliases: weights are a mapping, merging is a stream of items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "Mapping[str, Tensor]"
"""Tensor names to tensors, in memory or lazily on disk."""

Item: TypeAlias = "tuple[str, Tensor]"
"""One named tensor: an element of a merged delta or of a state dict."""

Items: TypeAlias = "Iterable[tuple[str, Tensor]]"
"""A stream of named tensors; the caller chooses the sink."""

MODES = ("standard", "linear")
"""How a scene's candidates are trained: as the network answers, or as its tangent at the base does."""

Json: TypeAlias = dict[str, Any]
"""What `--json` prints and the endpoints return: plain values only."""
