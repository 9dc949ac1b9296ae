"""The preprocessing that a model was trained with, found without loading its weights."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import CheckpointError
from negmerge_kit.models.clip import build_untrained
from negmerge_kit.models.image_size import sized_as
from negmerge_kit.models.model_spec import CLASSIFIER, TIMM, ModelSpec, find_model
from negmerge_kit.models.networks import build_network
from negmerge_kit.models.tiny_clip import TINY
from negmerge_kit.types import Json


@lru_cache(maxsize=64)
def _resolved(arch: str, pretrained: str | None) -> Transform:
    if arch.startswith(CLASSIFIER):
        name = arch.removeprefix(CLASSIFIER)
        if name.startswith("timm/"):
            return _timm(f"{TIMM}{name.removeprefix('timm/')}", pretrained)
        return Transform(8, 8) if name == "tiny" else Transform(32, 32)
    if arch.startswith(TIMM):
        return _timm(arch, pretrained)
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    from negmerge_kit.models.tiny_clip import register

    register()
    config: dict[str, Any] = open_clip.get_model_config(arch) or {}
    vision = config.get("vision_cfg", {})
    tag: dict[str, Any] = get_pretrained_cfg(arch, pretrained) if pretrained else {}
    size = vision.get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return Transform(
        height,
        width,
        tag.get("interpolation", "bicubic"),
        tag.get("resize_mode", "shortest"),
        fill=int(tag.get("fill_color", 0)),
    )


def _timm(arch: str, pretrained: str | None) -> Transform:
    import timm
    from timm.data.config import resolve_data_config

    name = arch.removeprefix(TIMM)
    tagged = name if pretrained is None or Path(pretrained).is_file() else f"{name}.{pretrained}"
    config = timm.get_pretrained_cfg(tagged)
    wanted = resolve_data_config(pretrained_cfg=config.to_dict() if config else {})
    _, height, width = wanted["input_size"]
    resize = {"squash": "squash", "border": "longest"}.get(wanted.get("crop_mode", "center"), "shortest")
    return Transform(height, width, wanted["interpolation"], resize, float(wanted["crop_pct"]))


def transform_of(spec: str | ModelSpec | Json) -> Transform:
    """The preprocessing of a model, without loading its weights; at another size it crops the same share.

    Raises:
        CheckpointError: an unknown model spec, or a size of images that its network cannot take.

    >>> transform_of("tiny").size
    (32, 32)
    """
    found = find_model(spec)
    own = Transform(32, 32) if found.arch == TINY else _resolved(found.arch, found.pretrained)
    if found.size is None or own.size == (found.size, found.size):
        return own
    _check_size(found.arch, found.size, own.size)
    return replace(own, height=found.size, width=found.size)


@lru_cache(maxsize=64)
def _check_size(arch: str, size: int, own: tuple[int, int]) -> None:
    """Raise CheckpointError for a size that an architecture cannot take; shapes alone are run, no weights are made."""
    tower: Any = _shapes_of(arch, None)
    trunk = getattr(tower, "trunk", tower)
    patches = getattr(trunk, "patch_size", None) or getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
    refused = f"{arch} cannot take images of {size} pixels"
    if hasattr(tower, "attnpool"):
        raise CheckpointError(
            f"{refused}: open_clip resizes positions of vision transformers only, not of attention pooling; leave the "
            "size out."
        )
    if patches:
        patch = max(patches) if isinstance(patches, tuple) else int(patches)
        if size % patch:
            raise CheckpointError(f"{refused}: it cuts them into patches of {patch}, so give a multiple of {patch}.")
    else:
        with torch.no_grad(), torch.device("meta"):
            stride = round(own[0] / trunk.eval().forward_features(torch.zeros(2, 3, *own)).shape[-1])
        if size < stride:
            raise CheckpointError(f"{refused}: its strides shrink them {stride} times, so give at least {stride}.")
    try:
        with torch.no_grad(), torch.device("meta"):
            _shapes_of(arch, size)(torch.zeros(2, 3, size, size))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{refused} ({error}): choose another size, or leave it out.") from error


def _shapes_of(arch: str, size: int | None) -> torch.nn.Module:
    """An architecture's image tower in eval mode, on the device that holds shapes alone."""
    import timm

    with torch.device("meta"):
        if arch.startswith(CLASSIFIER):
            return build_network(arch.removeprefix(CLASSIFIER), 2, size=size).module.eval()
        if arch.startswith(TIMM):
            name = arch.removeprefix(TIMM)
            module: torch.nn.Module = timm.create_model(name, num_classes=0, **sized_as(name, size))
            return module.eval()
        visual: torch.nn.Module = build_untrained(arch, torch.device("meta"), size).clip.visual
        return visual.eval()
