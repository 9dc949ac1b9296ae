"""The preprocessing that a model was trained with, found without loading its weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from negmerge_kit.data.transform import Transform
from negmerge_kit.models.model_spec import CLASSIFIER, TIMM, ModelSpec, find_model
from negmerge_kit.models.tiny_clip import TINY


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


def transform_of(spec: str | ModelSpec | dict[str, str | None]) -> Transform:
    """The preprocessing of a model, without loading its weights.

    Raises:
        CheckpointError: an unknown model spec.

    >>> transform_of("tiny").size
    (32, 32)
    """
    found = find_model(spec)
    if found.arch == TINY:
        return Transform(32, 32)
    return _resolved(found.arch, found.pretrained)
