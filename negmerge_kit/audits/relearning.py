"""Relearning: how few images and steps bring the knowledge back?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

from torch import Tensor

from negmerge_kit.audits.context import AuditContext, ProbedModel, few_of_each
from negmerge_kit.audits.probe import LEFTOVER, LOWER, NONE, OPEN, Measurement, Probe, change
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

IMAGES = (1, 5, 20)
"""Images of each class that relearning may use."""
LOOKS = (1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 400, 500)
"""Steps after which test accuracy is looked at, and after the last."""


def relearning(context: AuditContext) -> Iterator[Probe]:
    """Fine-tune the unlearned model on a few forget images until the base's accuracy is back.

    The floor is what is learned from nothing: the retrained model, or else shuffled weights, after as many steps.

    The number is test accuracy when it is back or the steps are spent; `details` hold the steps, with the steps that
    reached the lower and the upper end of the base's interval. Training is a candidate's own: same head, same rate.
    """
    base = context.models["base"]
    goal = Measurement.share(base.hits(context.forget), context.forget.split)
    for per_class in IMAGES:
        images = few_of_each(context.train, per_class, seed=context.seed)
        measurements, looks = {"base": goal}, {}
        details: Json = {"images": len(images), "most_steps": context.steps, "recipe": _recipe(context, images).json()}
        floor = "retrained" if "retrained" in context.models else "shuffled"
        for who, probed in context.models.items():
            if who in ("unlearned", floor):
                looks[who] = _relearn(context, probed, images, goal)
                measurements[who] = Measurement.share(looks[who][max(looks[who])], context.forget.split)
                details[who] = _steps(looks[who], goal)
        yield Probe(
            f"relearning from {per_class} a class",
            f"Does fine-tuning on {len(images)} images of {context.forget.name} bring back what the base knew?",
            measurements,
            context.chance,
            _verdict(looks["unlearned"], looks[floor], floor),
            details=details,
            good=LOWER,
            floor=(floor, _share(looks[floor][_both(looks["unlearned"], looks[floor])])),
        )


def _relearn(context: AuditContext, probed: ProbedModel, images: ImageSet, goal: Measurement) -> dict[int, Tensor]:
    """Which test images were right after each step that was looked at; it ends at the goal or with the steps."""
    looks = {0: probed.hits(context.forget)}
    model = probed.shown()
    probed.disturbed()
    # A generator: closing it gives training mode and threads back.
    with closing(finetune(model, images, _recipe(context, images))) as steps:
        for step in steps:
            if step.index in LOOKS or step.index == context.steps:
                with _resting(model):
                    said = model.logits(context.forget.images, context.forget.name).argmax(1).cpu()
                looks[step.index] = said.eq(context.forget.labels.cpu())
                if step.index == context.steps or _share(looks[step.index]) >= goal.high:
                    break
    return looks


def _recipe(context: AuditContext, images: ImageSet) -> Recipe:
    per_epoch = -(-len(images) // context.recipe.batch_size)
    return replace(context.recipe, epochs=-(-context.steps // per_epoch), seed=context.seed)


def _steps(looks: Mapping[int, Tensor], goal: Measurement) -> Json:
    """When the base's accuracy, and both ends of its interval, were first reached; None is never."""

    def first(level: float) -> int | None:
        return next((step for step, hits in looks.items() if _share(hits) >= level), None)

    return {
        "steps": first(goal.value),
        "steps_low": first(goal.low),
        "steps_high": first(goal.high),
        "curve": [{"step": step, "accuracy": _share(hits)} for step, hits in looks.items()],
    }


def _verdict(unlearned: Mapping[int, Tensor], floor: Mapping[int, Tensor], name: str) -> str:
    """Only a model that never knew the set decides how fast it is learnt from nothing: both after equal steps."""
    step = _both(unlearned, floor)
    if change(floor[step], unlearned[step])[0] <= 0:
        return NONE
    return LEFTOVER if name == "retrained" else OPEN


def _both(one: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> int:
    """The last step at which both were looked at."""
    return max(one.keys() & other.keys())


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


@contextmanager
def _resting(model: Classifier) -> Iterator[None]:
    """Evaluation mode in the middle of training."""
    training = model.tower.training
    model.network.eval()
    try:
        yield
    finally:
        model.tower.train(training)
