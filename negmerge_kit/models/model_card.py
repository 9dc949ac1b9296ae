"""Model card data of a base model: its Hub repository, and its licence where it is known."""

from __future__ import annotations

from typing import Any


def base_on_hub(model: Any) -> str | None:
    """The Hub repository of a scene's base model; None for the embedded one, a classifier and a local file.

    >>> base_on_hub({"arch": "ViT-B-32-quickgelu", "pretrained": "openai"})
    'timm/vit_base_patch32_clip_224.openai'
    >>> base_on_hub({"arch": "timm:resnet18", "pretrained": "a1_in1k"}), base_on_hub("tiny")
    ('timm/resnet18.a1_in1k', None)
    """
    arch, tag = (model.get("arch"), model.get("pretrained")) if isinstance(model, dict) else (model, None)
    arch = str(arch)
    if arch.startswith("hf-hub:"):
        return arch.removeprefix("hf-hub:")
    if not isinstance(tag, str) or "." in tag or arch.startswith("classifier:"):
        return None
    if arch.startswith("timm:"):
        return f"timm/{arch.removeprefix('timm:')}.{tag}"
    from open_clip import get_pretrained_cfg

    return str((get_pretrained_cfg(arch, tag) or {}).get("hf_hub") or "").strip("/") or None


def licence_of_base(model: Any) -> str | None:
    """The licence under which the base's weights were given out, where it is known here; else `push --licence` says it.

    >>> licence_of_base("tiny"), licence_of_base({"arch": "ViT-B-32", "pretrained": "metaclip_400m"})
    ('mit', None)
    """
    tag = str(model.get("pretrained")) if isinstance(model, dict) else ""
    embedded = model == "tiny"  # this package's own weights
    return "mit" if embedded or tag == "openai" or tag.startswith(("laion400m", "laion2b")) else None
