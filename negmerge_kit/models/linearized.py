"""Tangent models: features that are linear in the weights, around the base, so that deltas add up exactly."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from negmerge_kit.errors import SceneError
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.clip import ClipClassifier


class LinearClassifier(ClipClassifier):
    """A classifier whose features are f(θ0) + J(θ0)·(θ - θ0), to unit length; see `linearize`."""

    mode = "linear"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.anchor()

    def anchor(self) -> None:
        """Take the present weights as θ0."""
        self._start = {name: weight.detach().clone() for name, weight in self.tower.named_parameters()}

    def raw(self, pixels: Tensor) -> Tensor:
        """Features before they are brought to unit length, [n, D]: linear in θ."""
        tower, start = self.tower, self._start
        change = {name: weight - start[name] for name, weight in tower.named_parameters()}
        buffers = dict(tower.named_buffers())

        def features(weights: dict[str, Tensor]) -> Tensor:
            output: Tensor = functional_call(tower, {**weights, **buffers}, (pixels,))
            return output

        with _forward_mode():
            value, moved = jvp(features, (start,), (change,))  # type: ignore[misc]
        tangent: Tensor = value + moved
        return tangent

    def encode(self, pixels: Tensor) -> Tensor:
        """Unit-length tangent features [n, D] of normalised pixels in one pass."""
        return torch.nn.functional.normalize(self.raw(pixels), dim=-1)


def linearize(classifier: Classifier) -> LinearClassifier:
    """A linear copy of a model around its present weights θ0, with the same heads and the same interface.

    f_lin(x; θ) = f(x; θ0) + J_θ f(x; θ0) · (θ - θ0), one forward-mode pass (Ortiz-Jimenez et al. 2023,
    https://arxiv.org/abs/2305.12827); the head sees it at unit length, as it sees f. `load`, `weights` and fine-tuning
    speak θ, so candidates, deltas and rules are what they are for any model. θ0 is the model's weights at this moment,
    and again whenever `anchor()` is called. Buffers such as running statistics are taken as they are, in eval mode.

    Raises:
        SceneError: a standard classifier, whose head trains with it.

    >>> from negmerge_kit.models.load import load_model
    >>> from negmerge_kit.data.embedded import family_images
    >>> model, images = load_model("tiny", device="cpu"), family_images("digits", "val").images[:2]
    >>> torch.allclose(linearize(model).features(images), model.features(images), atol=1e-5)
    True
    """
    if not isinstance(classifier, ClipClassifier):
        raise SceneError(
            f"{classifier.spec} trains its own head, so it has no tangent model: give a CLIP or a timm tower."
        )
    built = replace(classifier.built, clip=copy.deepcopy(classifier.clip))
    linear = LinearClassifier(built, classifier.spec)
    linear.heads, linear.classes = dict(classifier.heads), dict(classifier.classes)
    return linear


@contextmanager
def _forward_mode() -> Iterator[None]:
    """Only attention written out has a forward-mode rule: no fused kernels, and no fast path of eval mode."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            # torch's own forward-mode rules are still written with the deprecated torch.jit.script.
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
