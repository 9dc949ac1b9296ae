"""Metrics of an unlearned classifier, each with its formula, its direction and its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["target", "down", "up"]

RETRAINED = "the retrained model's value"
SALUN = "SalUn, Fan et al. 2024, arXiv:2310.12508"


@dataclass(frozen=True)
class Metric:
    """One number about a model that should have forgotten.

    Attributes:
        title: its name for readers; `published` is how papers write it, where they do.
        formula: how it is computed, in words.
        direction: `target` where nearer to the target is better, whichever side; `down` or `up` where less or more is.
        target: the value to reach.
        source: where the definition is from.
        share: whether it is a share of images, with their number and Wilson's interval.
    """

    name: str
    title: str
    formula: str
    direction: Direction
    target: str
    source: str
    published: str | None = None
    share: bool = True


def _attack(feature: str, looks_at: str, source: str = SALUN) -> Metric:
    return Metric(
        f"mia_{feature}",
        f"Membership attack on {looks_at}",
        f"as `mia`, with {looks_at} as what the attack looks at",
        "target",
        RETRAINED,
        source,
    )


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "retain",
            "Accuracy on remaining images",
            "share of the training images that are kept (D_r) whose class the model names",
            "target",
            RETRAINED,
            SALUN,
            "D_r",
        ),
        Metric(
            "forget",
            "Accuracy on forgotten images",
            "share of the images to forget (D_f) whose class the model names",
            "target",
            RETRAINED,
            SALUN,
            "D_f",
        ),
        Metric(
            "unseen",
            "Accuracy on unseen images",
            "share of validation or test images, which no model was trained on, whose class the model names",
            "target",
            RETRAINED,
            SALUN,
            "D_test",
        ),
        Metric("unlearning", "Unlearning accuracy", "1 - forget", "target", RETRAINED, SALUN, "UA"),
        Metric(
            "mia",
            "Membership attack",
            "share of the images to forget that an SVC (C = 3, RBF, gamma = auto) on the probability of the true class "
            "calls non-members, after learning from as many remaining images (the first ones) and the unseen ones",
            "target",
            RETRAINED,
            f"{SALUN}, SVC_MIA_forget_efficacy['confidence']",
            "MIA",
        ),
        _attack("correctness", "whether the answer is right"),
        _attack("entropy", "the entropy of the answer"),
        _attack("prob", "all probabilities"),
        _attack("m_entropy", "modified entropy", "Song and Mittal 2021, arXiv:2003.10595"),
        _attack("m_entropy_salun", "modified entropy as SalUn's code has it"),
        Metric(
            "loss_threshold",
            "Loss threshold attack",
            "share of the images to forget whose loss lies above the threshold that best parts remaining from unseen",
            "target",
            RETRAINED,
            "Yeom et al. 2018, arXiv:1709.01604",
        ),
        Metric(
            "lira_members",
            "LiRA, called members",
            "share of the images to forget whose logit-scaled confidence is likelier under shadow models that were "
            "trained on the image than under those that were not",
            "target",
            RETRAINED,
            "Carlini et al. 2022, arXiv:2112.03570, online, one variance for all images",
        ),
        Metric(
            "lira_auc",
            "LiRA, forgotten against unseen",
            "probability that an image to forget has a larger likelihood ratio than an unseen one",
            "target",
            f"{RETRAINED}, near 0.5",
            "Carlini et al. 2022, arXiv:2112.03570, online, one variance for all images",
            share=False,
        ),
        Metric(
            "gap",
            "Average gap",
            "mean of |x - the retrained model's x| over retain, forget, unseen and mia",
            "down",
            "0",
            SALUN,
            "Avg. Gap",
            share=False,
        ),
        Metric(
            "seconds",
            "Seconds",
            "wall time to make the model: of a rule its candidates, of a baseline every try, and of both the scoring "
            "on validation that chose the scale or the rate",
            "down",
            "as few as retraining takes, or fewer",
            "measured",
            share=False,
        ),
    )
}
"""Every metric of the classifier table, by name; `gap` needs the retrained model, LiRA shadow models."""
