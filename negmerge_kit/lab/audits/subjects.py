"""The models under audit: base, unlearned, retrained, and a floor; one resident model shows them in turn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from negmerge_kit.errors import NotFiniteError
from negmerge_kit.types import Weights
from negmerge_kit.vision.classifier import Classifier
from negmerge_kit.vision.images import ImageSet


class Stage:
    """The one model on the device, and whose weights it holds."""

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.shown: Subject | None = None


class Subject:
    """One model under audit: its weights, its heads, and the image features that they give, computed once.

    Args:
        name: base, unlearned, retrained or shuffled.
        weights: the whole key set.
        heads: class weights by set, [C, D].
        stage: where the weights are put when features are asked for.
        around: whose weights a linear model is linearised around, if not this subject's own.
    """

    def __init__(
        self, name: str, weights: Weights, heads: Mapping[str, Tensor], stage: Stage, *, around: Subject | None = None
    ) -> None:
        self.name = name
        self.weights = weights
        self.heads = {head: weight.cpu() for head, weight in heads.items()}
        self._stage = stage
        self._around = around
        self._features: dict[ImageSet, Tensor] = {}

    def shown(self) -> Classifier:
        """The resident model with this subject's weights and heads; whoever trains it calls `disturbed` after."""
        if self._stage.shown is not self:
            self._stage.shown = None  # half loaded until all of it is
            if self._around is not None:
                self._stage.model.load(self._around.weights.items())
                self._stage.model.anchor()
            self._stage.model.load(self.weights.items())
            if self._around is None:
                self._stage.model.anchor()
            device = self._stage.model.device
            self._stage.model.heads = {name: head.to(device) for name, head in self.heads.items()}
            self._stage.shown = self
        return self._stage.model

    def disturbed(self) -> None:
        """The resident model no longer holds what it was given."""
        self._stage.shown = None

    def features(self, images: ImageSet) -> Tensor:
        """Unit-length image features on the CPU, float32 [n, D].

        Raises:
            NotFiniteError: if they hold NaN or infinity.
        """
        if images not in self._features:
            found = self.shown().features(images.images).cpu()
            if not bool(torch.isfinite(found).all()):
                raise NotFiniteError(
                    f"the {self.name} model answers with NaN or infinity: its weights are damaged, or the scale is far "
                    "too large."
                )
            self._features[images] = found
        return self._features[images]

    def logits(self, images: ImageSet, *heads: str) -> Tensor:
        """Logits under the set's own head, or under several heads side by side: [n, C]."""
        weights = torch.cat([self.heads[name] for name in heads or (images.name,)])
        return self.features(images) @ weights.T

    def hits(self, images: ImageSet) -> Tensor:
        """Which images the model names right under the set's own head: bool [n]."""
        return torch.eq(self.logits(images).argmax(1), images.labels.cpu())


def shuffled(weights: Weights, *, tower: str = "visual.", seed: int = 0) -> dict[str, Tensor]:
    """The same numbers in the image tower, in another order: what the architecture shows that has learnt nothing.

    Every tensor whose name starts with `tower` keeps its values and loses their places (a randomisation control in the
    manner of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292); the rest stays.

    >>> found = shuffled({"visual.w": torch.arange(4.0), "scale": torch.tensor(2.0)})
    >>> sorted(found["visual.w"].tolist()), found["scale"].item()
    ([0.0, 1.0, 2.0, 3.0], 2.0)
    """
    random = torch.Generator().manual_seed(seed)

    def mixed(tensor: Tensor) -> Tensor:
        flat = tensor.cpu().reshape(-1)
        return flat[torch.randperm(len(flat), generator=random)].reshape(tensor.shape)

    return {name: mixed(tensor) if name.startswith(tower) else tensor for name, tensor in weights.items()}
