"""How sure the model is, and whether it says so correctly: confidence and calibration on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from negmerge_kit.audits.context import AuditContext
from negmerge_kit.audits.probe import LOWER, Measurement, Probe
from negmerge_kit.image_set import ImageSet
from negmerge_kit.scoring.calibration import BINS, Calibration, calibration, top


def confidence(context: AuditContext) -> Iterator[Probe]:
    """Mean highest probability and expected calibration error, on forget and on all kept test images."""
    for side, sets in (("forget", [context.forget]), ("retain", list(context.test.retain))):
        found = {who: _calibration(context, who, sets) for who in context.asked}
        yield Probe(
            f"confidence on {side}",
            f"How sure is the model of its answers on {side} images?",
            {
                who: Measurement(each.confidence, *each.confidence_interval, each.n, each.split)
                for who, each in found.items()
            },
            chance=sum(len(images) / len(images.classes) for images in sets) / sum(map(len, sets)),
            good=LOWER if side == "forget" else None,
        )
        yield Probe(
            f"calibration on {side}",
            f"By how much does confidence on {side} images miss how often the model is right (ECE, {BINS} bins)?",
            {who: Measurement(each.ece, *each.ece_interval, each.n, each.split) for who, each in found.items()},
            chance=found["unlearned"].floor,
            details={
                "floor": {who: each.floor for who, each in found.items()},
                "chance": "the error that binning alone gives a perfectly calibrated model as confident as the "
                "unlearned one",
            },
            good=LOWER,
        )


def _calibration(context: AuditContext, who: str, sets: Sequence[ImageSet]) -> Calibration:
    answers = [top(context.models[who].logits(images), images.labels.cpu()) for images in sets]
    sure, right = (torch.cat(part) for part in zip(*answers, strict=True))
    return calibration(sure, right, split=sets[0].split, seed=context.seed)
