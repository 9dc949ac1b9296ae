"""timm's networks at another size of images than their own."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from negmerge_kit.types import Weights


def sized_as(name: str, size: int | None) -> dict[str, Any]:
    """What `timm.create_model` takes for images of another size: nothing, where the network takes any.

    >>> sized_as("vit_tiny_patch16_224", 64), sized_as("resnet18", 64), sized_as("vit_tiny_patch16_224", None)
    ({'img_size': 64}, {}, {})
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    return {"img_size": size} if size is not None and config is not None and config.fixed_input_size else {}


def at_size(module: nn.Module, weights: Weights) -> Weights:
    """A file's weights with positions resampled by timm's own filter, where a network counts them."""
    resampled = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    if resampled is None or not config.get("fixed_input_size"):
        return weights
    found: Weights = resampled(dict(weights.items()), module)
    return found
