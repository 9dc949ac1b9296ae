"""The head built again from other words: was the knowledge only hidden from one set of prompts?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from negmerge_kit.audits.context import AuditContext, ProbedModel
from negmerge_kit.audits.probe import LEFTOVER, LOWER, Measurement, Probe, change, judge
from negmerge_kit.image_set import ImageSet
from negmerge_kit.types import Json

GENERIC = ("a photo of {}.", "an image of {}.", "a picture of a {}.", "{}")
"""Prompts that know nothing of the data set."""
SPARE = "other prompts"


def other_prompts(context: AuditContext) -> Iterator[Probe]:
    """Accuracy under the best head of several, chosen on validation for each model and scored once on test.

    Heads: the set's own templates again with the model's own text tower, each of them alone, and GENERIC ones.
    Knowledge is left where another head gets significantly more out of the unlearned model than its own does, and
    where `judge` says so of what the best head gets.
    """
    asks = f"Does the model name images of {context.forget.name} under a head built from other prompts?"
    if not context.models["base"].shown().has_text:
        yield Probe(SPARE, asks, undefined="not defined: the model has no text tower that prompts could be put to.")
        return
    own = context.templates[context.forget.name]
    variants = {"own templates": own, **{text: (text,) for text in (*own, *GENERIC)}}
    measurements: dict[str, Measurement] = {}
    details: Json = {}
    found: dict[str, Tensor] = {}
    for who, probed in context.asked.items():
        heads = {name: _head(probed, context.forget, templates) for name, templates in variants.items()}
        on_val = {name: float(_hits(probed, context.val.forget, head).float().mean()) for name, head in heads.items()}
        best = max(on_val, key=lambda name: on_val[name])
        found[who] = _hits(probed, context.forget, heads[best])
        measurements[who] = Measurement.share(found[who], context.forget.split)
        details[who] = {"best": best, "validation": on_val}
    more = change(context.models["unlearned"].hits(context.forget), found["unlearned"])
    verdict = LEFTOVER if more[0] > 0 else judge(found, context.chance)
    details["unlearned"] |= {"more_than_own_low": more[0], "more_than_own_high": more[1]}
    yield Probe(
        SPARE,
        asks,
        measurements,
        context.chance,
        verdict,
        details=details,
        good=LOWER,
        floor=context.floor(measurements),
    )


def _head(probed: ProbedModel, images: ImageSet, templates: tuple[str, ...]) -> Tensor:
    model = probed.shown()
    head = model.add_head(SPARE, images.classes, templates).cpu()
    del model.heads[SPARE], model.classes[SPARE]
    return head


def _hits(probed: ProbedModel, images: ImageSet, head: Tensor) -> Tensor:
    return torch.eq((probed.features(images) @ head.T).argmax(1), images.labels.cpu())
