"""Frozen linear heads: from class names and prompt templates, or, without a text tower, from labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from negmerge_kit.errors import SceneError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from negmerge_kit.image_set import ImageSet


def build_head(
    clip: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor], classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Class weights W such that `features @ W.T` are the CLIP logits: float32 [C, D] on the model's device.

    W_c = exp(logit_scale) * normalise(mean over templates of normalise(encode_text(template(c)))), built by open_clip's
    own zero-shot builder (Radford et al. 2021, https://arxiv.org/abs/2103.00020).
    """
    from open_clip import build_zero_shot_classifier

    model: Any = clip
    device = model.logit_scale.device
    weights = build_zero_shot_classifier(model, tokenizer, list(classes), list(templates), device=device)
    scaled: Tensor = (weights.T * model.logit_scale.detach().exp()).float().contiguous()
    return scaled


def build_prototypes(features: Tensor, images: ImageSet, logit_scale: Tensor) -> Tensor:
    """Class weights from labelled images' unit features [n, D]: float32 [C, D] on the features' device.

    W_c = exp(logit_scale) * normalise(mean of the features of class c): the nearest class mean by cosine, as in
    prototypical networks (Snell et al. 2017, https://arxiv.org/abs/1703.05175).

    Raises:
        SceneError: a class without an image; the message names it.
    """
    import torch

    labels = images.labels.to(features.device)
    count = torch.bincount(labels, minlength=len(images.classes))
    if not bool(count.all()):
        missing = images.classes[int((count == 0).nonzero()[0])]
        raise SceneError(
            f"{images.name} has no {images.split} image of class {missing!r}, which a head built from "
            "images needs: give at least one image a class."
        )
    total = features.new_zeros(len(count), features.shape[1]).index_add_(0, labels, features)
    prototypes: Tensor = torch.nn.functional.normalize(total / count[:, None], dim=1) * logit_scale.detach().exp()
    return prototypes.float()
