"""Metrics of one classifier: every one of METRICS on one split, with n and an interval where it is a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.gap import average_gap
from negmerge_kit.scoring.lira import log_ratios, scaled_confidence, separation
from negmerge_kit.scoring.membership_attacks import FEATURES, every_efficacy, threshold_efficacy
from negmerge_kit.scoring.metrics import METRICS
from negmerge_kit.types import Json
from negmerge_kit.unlearning.evaluation import logits_of

if TYPE_CHECKING:
    from negmerge_kit.classifier_eval.shadow_models import Shadows
    from negmerge_kit.image_set import ImageSet
    from negmerge_kit.models.classifier import Classifier
    from negmerge_kit.scenes.forget_set import Parts

NO_SHADOWS = "not asked for: it takes --shadows 8."
NO_RETRAINED = "there is no retrained model to hold it against: compare with the baseline retrain."
NOT_TIMED = "this model was given, not made here."


@dataclass(frozen=True)
class MetricSet:
    """The metrics of one model on one split, by name, in the order of METRICS.

    Every one is a score object of the JSON contract; where a metric was not measured its value is None and `why` says
    what it would need.
    """

    split: str
    scores: Mapping[str, Json]

    @property
    def values(self) -> dict[str, float]:
        """What was measured, as plain numbers."""
        return {name: score["value"] for name, score in self.scores.items() if score["value"] is not None}

    def with_gap(self, retrained: MetricSet | None, seconds: float | None = None) -> MetricSet:
        """The same with the gap to the retrained model and the time that making this one took.

        Raises:
            SplitError: if the retrained model was measured on another split.
        """
        if retrained is not None and retrained.split != self.split:
            raise SplitError(
                f"one model was measured on {self.split}, the other on {retrained.split}: measure both on one split."
            )
        added: dict[str, Json] = {}
        if retrained is not None:
            added["gap"] = _plain(average_gap(self.values, retrained.values), self.split)
        if seconds is not None:
            added["seconds"] = _plain(seconds, self.split)
        return MetricSet(self.split, {**self.scores, **added})

    def json(self) -> Json:
        """Every metric's score object."""
        return dict(self.scores)

    @classmethod
    def from_json(cls, split: str, scores: Json) -> MetricSet:
        """The metrics back from what `json` gave.

        Raises:
            KeyError: for a record that lacks a metric, or holds one that this version does not know.
        """
        if set(scores) != set(METRICS):
            raise KeyError(f"metrics {sorted(set(scores) ^ set(METRICS))}")
        return cls(split, {name: scores[name] for name in METRICS})


def measure(
    model: Classifier,
    parts: Parts,
    *,
    split: str,
    shadows: Shadows | None = None,
    features: Sequence[str] = tuple(FEATURES),
) -> MetricSet:
    """Every metric of one model; `gap` and `seconds` come with `MetricSet.with_gap`.

    Forgotten and remaining images are those of the split: one half of each chooses, the other reports (see
    `Parts.half`). Members are as many of the remaining images, from the first, as there are unseen ones; non-members
    are all unseen images: validation images on `val`, test images on `test`. No image is augmented. The
    intervals of the attacks are over the images to forget; they take what the attacker learned as given.

    Args:
        features: what the membership attack looks at; one classifier is trained for each.

    Raises:
        SplitError: for a split that is neither `val` nor `test`.
        NotFiniteError: if the model answers with NaN or infinity.
    """
    unseen = unseen_of(parts, split)
    split = unseen.split  # the split that was read
    known = (parts.on(name, split) for name in ("remaining", "forgotten"))
    remaining, forgotten, never = (_answers(model, images) for images in (*known, unseen))
    member = tuple(side[: len(never[1])] for side in remaining)
    scores: dict[str, Json] = {
        name: _accuracy(answers, of)
        for name, answers, of in (
            ("retain", remaining, "train"),
            ("forget", forgotten, "train"),
            ("unseen", never, split),
        )
    }
    scores["unlearning"] = _unlearned(*forgotten)
    n = len(forgotten[1])
    for feature, called in every_efficacy((member[0], member[1]), never, forgotten, features).items():
        scores["mia" if feature == "confidence" else f"mia_{feature}"] = _share(called, n, split)
    scores["loss_threshold"] = _share(threshold_efficacy((member[0], member[1]), never, forgotten), n, split)
    if shadows is not None:
        ours = log_ratios(scaled_confidence(*forgotten), *shadows.about("forgotten", parts.half("forgotten", split)))
        theirs = log_ratios(scaled_confidence(*never), *shadows.about("validation" if split == "val" else "test"))
        scores["lira_members"] = _share(float((ours > 0).double().mean()), n, split)
        found = separation(ours, theirs)
        scores["lira_auc"] = {"value": found.value, "n": n, "low": found.low, "high": found.high, "split": split}
    why = {"lira_members": NO_SHADOWS, "lira_auc": NO_SHADOWS, "gap": NO_RETRAINED, "seconds": NOT_TIMED}
    return MetricSet(
        split, {name: scores.get(name) or _absent(why.get(name, "it was not asked for."), split) for name in METRICS}
    )


def unseen_of(parts: Parts, split: str) -> ImageSet:
    """The images that nothing was trained on: validation or test.

    Raises:
        SplitError: for another split.
        ParameterError: if there are none.
    """
    if split not in ("val", "test"):
        raise SplitError(f"split {split!r} has no unseen images: measure on val or test.")
    unseen: ImageSet = parts.validation if split == "val" else parts.test
    if not len(unseen):
        raise ParameterError(f"split {split} has no image: the membership attack needs images that were never seen.")
    return unseen


def _answers(model: Classifier, images: ImageSet) -> tuple[Tensor, Tensor]:
    return logits_of(model, model.features(images.images), images).float().cpu(), images.labels.cpu()


def _accuracy(answers: tuple[Tensor, Tensor], split: str) -> Json:
    logits, labels = answers
    return Accuracy(int((logits.argmax(1) == labels).sum()), len(labels), split).json()


def _unlearned(logits: Tensor, labels: Tensor) -> Json:
    return Accuracy(int((logits.argmax(1) != labels).sum()), len(labels), "train").json()


def _share(value: float, n: int, split: str) -> Json:
    return Accuracy(round(value * n), n, split).json()


def _plain(value: float, split: str) -> Json:
    return {"value": value, "n": None, "low": None, "high": None, "split": split}


def _absent(why: str, split: str) -> Json:
    return {"value": None, "n": None, "low": None, "high": None, "split": split, "why": why}
