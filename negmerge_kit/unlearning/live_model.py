"""One resident model whose weights follow a choice and a scale, updated in place."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
from torch.optim.swa_utils import update_bn

from negmerge_kit.errors import NotFiniteError, ParameterError
from negmerge_kit.merging import subtract
from negmerge_kit.merging.layout import BUFFERS, check_buffers
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.networks import has_batch_norm
from negmerge_kit.pools.pool import Pool
from negmerge_kit.scenes.scene import Scene
from negmerge_kit.types import Items, Weights
from negmerge_kit.unlearning.delta_cache import Choice, DeltaCache


class ModelState(NamedTuple):
    """Weights of a resident model: base minus scale times the choice's delta; `exact` is False for a rounded delta."""

    choice: Choice | None = None
    scale: float = 0.0
    exact: bool = True


BASE = ModelState()


class LiveModel:
    """A model that holds the base minus scale times one merged delta; a move touches only what the two deltas hold.

    Attributes:
        state: what the weights are now; None after an update that failed half-way.
    """

    def __init__(self, model: Classifier, deltas: DeltaCache, statistics: RunningStatistics) -> None:
        self._model, self._deltas, self._statistics = model, deltas, statistics
        self._touched: set[str] = set()
        self.state: ModelState | None = BASE

    def move(self, pool: Pool, state: ModelState) -> None:
        """Load the weights for `state`. On CUDA out-of-memory, drop the cached deltas and retry once."""
        state = state if state.choice is not None and state.scale else BASE
        if state == self.state:
            return
        try:
            self._update(pool, state)
        except torch.OutOfMemoryError:
            fits = False
        else:
            fits = True
        if not fits:  # outside of the handler, which holds the tensors of the update that failed
            self._deltas.stream()
            self._update(pool, state)

    def _update(self, pool: Pool, state: ModelState) -> None:
        choice, scale, exact = state
        delta = self._deltas.merged(pool, choice, exact=exact).delta if choice else {}
        statistics = self._statistics.changed_by(choice)
        # If this fails half-way, the next update restores all that it touched.
        self._touched |= delta.keys() | statistics
        self.state = None
        base = self._deltas.base
        updated = (
            (name, subtract(base[name], delta[name].to(base[name].device), scale) if name in delta else base[name])
            for name in self._touched
        )
        self._model.load(updated, partial=True)
        self._statistics.apply_batchnorm_policy(choice, base, delta, scale)
        self._touched = delta.keys() | statistics
        self.state = state


RECALIBRATED_ON = 1024
"""So many remaining training images, the first ones, re-estimate the statistics; all of them if there are fewer."""

NEGATIVE_VARIANCE = "a merged running variance would be negative"
"""Why a scale cannot be scored where running statistics are merged."""

_BATCH = 128


class RunningStatistics:
    """BatchNorm policy of a resident model: keep, merge or recalibrate its running statistics."""

    def __init__(self, model: Classifier, scene: Scene) -> None:
        self._model, self._scene = model, scene

    @property
    def policies(self) -> tuple[str, ...]:
        """What there is to choose from: `keep` alone without batch normalisation; recalibration wants images for it."""
        if not has_batch_norm(self._model.tower):
            return BUFFERS[:1]
        return BUFFERS if self._scene.own_head else BUFFERS[:2]

    def check(self, buffers: str) -> str:
        """The policy, checked against the model and its scene.

        Raises:
            ParameterError: an unknown policy, one for a model without running statistics, or `recalibrate` where
                there is nothing to re-estimate them on.
        """
        if check_buffers(buffers) != "keep" and not has_batch_norm(self._model.tower):
            raise ParameterError(f'{self._model.spec} has no batch normalisation to {buffers}: use buffers "keep".')
        if buffers == "recalibrate" and not self._scene.own_head:
            raise ParameterError(
                f"scene {self._scene.name} has no remaining training images to recalibrate on: "
                'use buffers "keep" or "merge".'
            )
        return buffers

    def changed_by(self, choice: Choice | None) -> set[str]:
        """The names of the tensors that `apply_batchnorm_policy` changes in place."""
        if choice is None or choice.buffers != "recalibrate":
            return set()
        return {name for name, _ in self._model.tower.named_buffers()}

    def apply_batchnorm_policy(self, choice: Choice | None, base: Weights, delta: Weights, scale: float) -> None:
        """Recalibrate or check the running statistics once the weights are loaded.

        Raises:
            NotFiniteError: if a merged variance is negative now; the message names the tensor, the scale and a remedy.
        """
        if choice is None or choice.buffers == "keep":
            return
        if choice.buffers == "recalibrate":
            recalibrate(self._model, self._scene)
            return
        for name, change in delta.items():
            variance = name.endswith("running_var")
            if variance and bool((subtract(base[name], change.to(base[name].device), scale) < 0).any()):
                raise NotFiniteError(
                    f"{name} would be negative at scale {scale:g}, and a variance cannot be: use "
                    'buffers "keep" or "recalibrate", or a smaller scale.'
                )

    def written(self, base: Weights) -> Items:
        """The placed model's weights on the CPU, with the base's integer entries: recalibrated statistics are written
        as they were scored, the count of batches that re-estimated them is not."""
        placed = self._model.weights("cpu")
        for name, tensor in base.items():
            yield name, placed[name] if tensor.dtype.is_floating_point else tensor.cpu()


def recalibrate(model: Classifier, scene: Scene) -> None:
    """Re-estimate the running statistics in place.

    Means of the batch statistics of the first RECALIBRATED_ON remaining training images (torch's `update_bn`, as for
    averaged weights, https://arxiv.org/abs/1803.05407), without a random draw, so the same weights get the same
    statistics. The images are parted evenly, because every batch counts alike.
    """
    images = scene.parts.remaining.take(RECALIBRATED_ON).images
    parts = images.tensor_split(-(-len(images) // _BATCH))
    norms = [module for module in model.tower.modules() if hasattr(module, "momentum")]
    momenta = [module.momentum for module in norms]
    try:
        update_bn((model.pixels(part) for part in parts), model.tower)
    finally:
        # torch puts both back only where nothing went wrong, and memory may run out on the way.
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
        model.network.eval()


def largest_scale(base: Weights, delta: Weights) -> float:
    """The scale from which on a merged running variance would be negative; infinite where none can be.

    >>> import torch
    >>> largest_scale({"bn.running_var": torch.ones(2)}, {"bn.running_var": torch.tensor([-1.0, 4.0])})
    0.25
    """
    limits = []
    for name, change in delta.items():
        if name.endswith("running_var") and bool((grows := change > 0).any()):
            limits.append(float((base[name].to(change.device)[grows] / change[grows]).min()))
    return min(limits, default=inf)
