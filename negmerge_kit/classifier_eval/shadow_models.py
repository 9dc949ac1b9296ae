"""Shadow models: trained on random halves of all images, for the likelihood ratio attack (LiRA).

POOL/shadows/shadow-<digest>.safetensors        what one shadow model answered
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.pools.result_store import ResultStore
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.lira import scaled_confidence
from negmerge_kit.training.seeding import derived_seed
from negmerge_kit.types import Json
from negmerge_kit.unlearning.evaluation import logits_of

if TYPE_CHECKING:
    from negmerge_kit.models.classifier import Classifier
    from negmerge_kit.scenes.forget_set import Parts

KIND = "shadow"
SETS = ("forgotten", "remaining", "validation", "test")
"""The sets whose images shadow models are trained on and asked about, in this order."""


@dataclass(frozen=True, eq=False)
class Shadows:
    """Answers of K shadow models to all images.

    Attributes:
        confidence: logit-scaled confidences, float32 [K, n].
        inside: which images each was trained on, bool [K, n].
        sizes: how many of the n images belong to each set of SETS, in their order.
    """

    confidence: Tensor
    inside: Tensor
    sizes: tuple[int, ...]

    def about(self, name: str, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Confidences and membership of one set's images, [K, n of the set] each; of those at `places` only."""
        place = SETS.index(name)
        start = sum(self.sizes[:place])
        columns = torch.arange(start, start + self.sizes[place])
        columns = columns if places is None else columns[places]
        return self.confidence[:, columns], self.inside[:, columns]


def halves(count: int, n: int, seed: int) -> Tensor:
    """Which of `n` images each of `count` shadow models is trained on, bool [count, n]: every image is in half of them.

    Raises:
        ParameterError: for an odd count, or one below 4; two models on each side are the least that have a spread.

    >>> drawn = halves(4, 10, seed=0)
    >>> drawn.sum(0).tolist() == [2] * 10
    True
    """
    if count < 4 or count % 2:
        raise ParameterError(f"{count} shadow models cannot be halved: give an even number, 4 at least.")
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(count, n, generator=draw, dtype=torch.float64).argsort(0)
    return order < count // 2


def train_shadows(
    parts: Parts,
    train: Callable[[ImageSet, int], Classifier],
    *,
    count: int,
    seed: int,
    folder: Path,
    made_from: Json,
    on_shadow: ProgressFn = no_progress,
) -> Shadows:
    """Train the shadow models, or find in `folder` those that were finished before.

    Their training images are drawn from all sets, those that the model was never trained on too: the attack may know
    every image, only not which ones the model saw. The weights are not kept, their answers are.

    Args:
        train: makes a model from images and a seed, which no other shadow model has, nor base or retrained model.
        made_from: what else the answers depend on: network, recipe, results version, torch, device.
        on_shadow: called before each model, and after the last.

    Raises:
        ParameterError: for a count that cannot be halved.
    """
    whole = _joined([getattr(parts, name) for name in SETS])
    inside = halves(count, len(whole), seed)
    store, answers = ResultStore(folder), []
    for index in range(count):
        on_shadow(Progress("shadow models", step=index, total=count))
        key = {"index": index, "count": count, "seed": seed, "images": whole.fingerprint(), **made_from}
        found = _find(store, key, len(whole))
        if found is None:
            chosen = inside[index].nonzero().flatten()
            images = whole.at(chosen)
            model = train(images, derived_seed(seed, "shadow model", index))
            logits = logits_of(model, model.features(whole.images), whole)
            found = scaled_confidence(logits, whole.labels).float()
            store.put_tensors(KIND, key, {"confidence": found})
        answers.append(found)
    on_shadow(Progress("shadow models", step=count, total=count))
    return Shadows(torch.stack(answers), inside, tuple(len(getattr(parts, name)) for name in SETS))


def _joined(sets: list[ImageSet]) -> ImageSet:
    first = sets[0]
    return replace(
        first,
        images=torch.cat([images.images.cpu() for images in sets]),
        labels=torch.cat([images.labels.cpu() for images in sets]),
        known=None,
    )


def _find(store: ResultStore, key: Json, n: int) -> Tensor | None:
    """Finished answers to n images; None where there are none."""
    kept = store.get_tensors(KIND, key)
    found = kept.get("confidence") if kept else None
    return found if found is not None and tuple(found.shape) == (n,) and bool(torch.isfinite(found).all()) else None
