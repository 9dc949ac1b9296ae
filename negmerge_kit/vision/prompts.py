"""Zero-shot heads: class names and prompt templates to a frozen linear classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def build_head(clip: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor], classes: Sequence[str],
               templates: Sequence[str]) -> Tensor:
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
