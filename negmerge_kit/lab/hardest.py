"""A split's images, asked hardest first, so that counts decide early what cannot be chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from negmerge_kit.errors import SceneError
from negmerge_kit.lab.evaluation import Scores, logits_of
from negmerge_kit.scoring.accuracy import Accuracy, pool_accuracies
from negmerge_kit.scoring.curve import Least, Point, stop_early
from negmerge_kit.vision.classifier import BATCH, Classifier
from negmerge_kit.vision.images import ImageSet
from negmerge_kit.vision.scene import Splits


class HardestFirst:
    """One split of a scene, resident on a device, that remembers how sure each answer was.

    A scale that keeps too little is given up soonest over the retain images that are nearest to being wrong, one that
    forgets too little over the forget images that are surest. Both are guessed from the margins of earlier answers
    (the label's logit less the highest other), at any scale and of any choice. The guess only sets the order: every
    count is the one that any order gives. `between` is called before the passes that run side by side.

    Raises:
        SceneError: if a set has no image.
    """

    def __init__(self, splits: Splits, *, between: Callable[[], object] = lambda: None) -> None:
        if empty := [images.name for images in splits if not len(images)]:
            raise SceneError(f"{empty[0]} has no {splits.forget.split} image, so nothing can be scored: add some.")
        self.splits = splits
        self._forget = Side((splits.forget,), surest_first=True, between=between)
        self._retain = Side(splits.retain, surest_first=False, between=between)

    @property
    def answered(self) -> int:
        """How many images have been answered so far."""
        return self._forget.answered + self._retain.answered

    def scores(self, model: Classifier) -> Scores:
        """Every set's accuracy, counted in full.

        Raises:
            SceneError: if the model has no head for a set.
            NotFiniteError: if the model answers with NaN or infinity.
        """
        correct = dict.fromkeys((images.name for images in self.splits), 0)
        for side in (self._forget, self._retain):
            for name, hits, _ in side.parts(model):
                correct[name] += hits
        forget, *retain = (Accuracy(correct[images.name], len(images), images.split) for images in self.splits)
        names = [images.name for images in self.splits]
        return Scores(forget, pool_accuracies(retain), dict(zip(names, [forget, *retain], strict=True)))

    def point(
        self,
        model: Classifier,
        scale: float,
        *,
        forget_at_most: int | None = None,
        retain_at_least: Least | None = None,
    ) -> Point:
        """One point of the curve for `search_scale`, stopped as soon as its counts prove that it cannot win."""
        return stop_early(
            self._forget.parts(model),
            self._retain.parts(model),
            forget_n=len(self.splits.forget),
            retain_n={images.name: len(images) for images in self.splits.retain},
            forget_at_most=forget_at_most,
            retain_at_least=retain_at_least,
            scale=scale,
            split=self.splits.forget.split,
        )


class Side:
    """The sets of one side of a split, in one line of images, that remembers how sure each answer was.

    Attributes:
        n: how many images there are.
        answered: how many have been answered so far, whether or not anybody waited for the answer.
    """

    def __init__(
        self, sets: Sequence[ImageSet], *, surest_first: bool, between: Callable[[], object] = lambda: None
    ) -> None:
        self._between = between
        self._sets, self._surest_first, self.answered = tuple(sets), surest_first, 0
        device, sizes = sets[0].images.device, torch.tensor([len(images) for images in sets])
        self.n = int(sizes.sum())
        self._owners = torch.arange(len(sets)).repeat_interleave(sizes).to(device)
        self._margins = torch.zeros(self.n, device=device)

    def answers(self, model: Classifier) -> Iterator[tuple[Tensor, Tensor]]:
        """(places in the line, whether each is right: bool) of one forward pass after the other, hardest first.

        Raises:
            SceneError: if the model has no head for a set.
            NotFiniteError: if the model answers with NaN or infinity.
        """
        order = self._margins.argsort(descending=self._surest_first, stable=True)
        size = BATCH[model.device.type]
        for several in order.split(model.at_once):
            self._between()
            blocks = [(block, self._places(block)) for block in several.split(size)]
            asked = [images.images[inside] for _, places in blocks for images, inside, _ in places]
            features = model.features(torch.cat(asked)).split(size)
            self.answered += len(several)
            for (block, places), answers in zip(blocks, features, strict=True):
                right, start = torch.empty(len(block), dtype=torch.bool, device=block.device), 0
                for images, inside, where in places:
                    labels = images.labels[inside]
                    logits = logits_of(model, answers[start : start + len(inside)], images).to(block.device)
                    start += len(inside)
                    right[where] = logits.argmax(dim=1) == labels
                    self._margins[block[where]] = _margins(logits, labels)
                yield block, right

    def parts(self, model: Classifier) -> Iterator[tuple[str, int, int]]:
        """(set, correct, images) of every set that has images in a forward pass, hardest pass first."""
        for block, right in self.answers(model):
            owners = self._owners[block]
            for index in owners.unique().tolist():
                mine = owners == index
                yield self._sets[index].name, int(right[mine].sum()), int(mine.sum())

    def _places(self, block: Tensor) -> list[tuple[ImageSet, Tensor, Tensor]]:
        """Each set that has images in the block, their indices in the set, and their places in the block."""
        places, first = [], 0
        for images in self._sets:
            where = ((block >= first) & (block < first + len(images))).nonzero().flatten()
            if len(where):
                places.append((images, block[where] - first, where))
            first += len(images)
        return places


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the label's logit stands above the highest other one, [n]; below 0 where the answer is wrong."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return (own - others.max(dim=1, keepdim=True).values).flatten()
