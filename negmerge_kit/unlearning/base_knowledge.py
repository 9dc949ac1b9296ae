"""Before candidates are trained: does the base know what it should forget, and how well does a trained base generalise?

A base that answers at chance has nothing to forget, and no curve over it can show forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from negmerge_kit.errors import UnknownSetError
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.pools.pool import Pool
from negmerge_kit.scenes.find import scene_from_json
from negmerge_kit.scenes.scene import Scene
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.unlearning.evaluation import evaluate

FITTED = 0.95
"""Accuracy on the images it was trained on below which a classifier's base is called underfitted. The published
protocol's base has 100 % (SalUn, https://arxiv.org/abs/2310.12508, table 1)."""


def check_known(score: Accuracy, classes: int, name: str) -> None:
    """Refuse a forget set that the base does not know: Wilson's 95 % interval of its accuracy reaches down to chance.

    Chance is 1 / classes, what guessing at random gets.

    Args:
        score: the base's accuracy on the forget set, on validation: the images that choose the scale.
        classes: how many there are.
        name: of the set, for the message.

    Raises:
        UnknownSetError: with the accuracy, chance and the ways on.

    >>> check_known(Accuracy(60, 100, "val"), 5, "faces")
    >>> check_known(Accuracy(4, 60, "val"), 5, "faces")
    Traceback (most recent call last):
    negmerge_kit.errors.UnknownSetError: the base does not know faces: it gets 6.7 % of 60 validation images right ...
    """
    low, high = score.interval
    chance, split = 1 / classes, "validation" if score.split == "val" else score.split
    if low > chance:
        return
    raise UnknownSetError(
        f"the base does not know {name}: it gets {100 * score.value:.1f} % of {score.n:,} {split} images right "
        f"(95 % interval {100 * low:.1f}-{100 * high:.1f}), and guessing among {classes} classes gets "
        f"{100 * chance:.1f} %. What is not known cannot be forgotten, and no curve could show it. Check the class "
        "names and labels, give more images or another model, or train all the same with --anyway (in Python "
        "anyway=True, in the app the box “Even if the base does not know it”)."
    )


def require_known(pool: Pool, *, device: str = "auto") -> Accuracy | None:
    """The base's accuracy on the forget set, which it knows; None for a classifier that was trained here on them.

    Raises:
        UnknownSetError: as `check_known`.
    """
    scene = scene_from_json(pool.scene)
    if scene.trains_base:
        return None
    images = scene.images("val").forget
    score = evaluate(_base(pool, scene, device), images)
    check_known(score, len(images.classes), images.name)
    return score


@dataclass(frozen=True)
class Fit:
    """How a classifier's base does on the images that it was trained on, and on validation images that it never saw."""

    seen: Accuracy
    unseen: Accuracy

    def sentence(self) -> str:
        """Both in a line, with a warning where the base has not fitted its images.

        >>> Fit(Accuracy(99, 100, "train"), Accuracy(40, 50, "val")).sentence()
        'the base gets 99.0 % of the 100 images right that it was trained on, and 80.0 % of 50 unseen ones'
        """
        accuracies = (
            f"the base gets {100 * self.seen.value:.1f} % of the {self.seen.n:,} images right that it was trained "
            f"on, and {100 * self.unseen.value:.1f} % of {self.unseen.n:,} unseen ones"
        )
        if self.seen.value >= FITTED:
            return accuracies
        return (
            f"{accuracies}. Far from 100 % on what it has seen, it has hardly learnt single images, so that there is "
            "little to forget: train it longer (training = {epochs = …} in the scene)"
        )


def fit_of(pool: Pool, *, device: str = "auto") -> Fit:
    """How the base of a standard classifier's pool fits what it was trained on.

    Raises:
        SceneError: for a pool of another model.
    """
    scene = scene_from_json(pool.scene)
    parts = scene.parts
    base = _base(pool, scene, device)
    # The network's one head goes by the names of the scene's parts; its classes are the data's.
    seen = replace(parts.seen, name=scene.sources[0].name)
    return Fit(evaluate(base, seen), evaluate(base, parts.validation))


def _base(pool: Pool, scene: Scene, device: str) -> Classifier:
    model = scene.load(device=device, heads=pool.checked(pool.heads_file))
    model.load(pool.checked(pool.base_file).items())
    return model
