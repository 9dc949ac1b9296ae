"""Membership inference: do the model's answers show that it was trained on the images to forget?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from negmerge_kit.audits.context import AuditContext, Members, ProbedModel
from negmerge_kit.audits.probe import HIGHER, Measurement, Probe
from negmerge_kit.audits.zero_shot import joint_labels
from negmerge_kit.image_set import ImageSet
from negmerge_kit.scoring.membership_attacks import attack_efficacy, threshold_efficacy

ATTACKS = {"membership SVC": attack_efficacy, "membership threshold": threshold_efficacy}
UNDEFINED = (
    "not defined: nobody knows which images this model was pretrained on, so there are neither members nor non-members."
)


def membership(context: AuditContext) -> Iterator[Probe]:
    """Share of the forget set's pretraining images that each attack calls non-members; the retrained model's is ideal.

    The attack learns from kept images that were and were not in pretraining, answered under all heads side by side.
    What it says of forget images that were never seen is given too, as `strangers`: equal shares mean that membership
    leaves no trace. How much is left is how far the share falls below that one, held against how far the base's does;
    an attack that does not know the base's own images from unseen ones measures nothing.
    """
    for name, attack in ATTACKS.items():
        asks = f"Does an attacker take pretraining images of {context.forget.name} for images the model never saw?"
        if context.members is None:
            yield Probe(name, asks, undefined=UNDEFINED)
            continue
        measurements, strangers = {}, {}
        for who, probed in context.asked.items():
            member, nonmember, target, never = _answers(context, probed, context.members)
            n = len(target[1])
            called = torch.arange(n) < round(attack(member, nonmember, target) * n)
            measurements[who] = Measurement.share(called, context.members.forget.split)
            strangers[who] = attack(member, nonmember, never)
        knows = measurements["base"].high < strangers["base"]
        # A model's share as far below the unlearned model's strangers as it is below its own.
        shift = {who: strangers["unlearned"] - share for who, share in strangers.items()}
        value, low, high = (end + shift["base"] for end in measurements["base"].span)
        floor = ("never seen", strangers["unlearned"])
        if "retrained" in measurements:
            floor = ("retrained", measurements["retrained"].value + shift["retrained"])
        yield Probe(
            name,
            asks,
            measurements,
            0.5,
            details={"strangers": strangers, "knows_the_base": knows},
            good=HIGHER,
            floor=floor if knows else None,
            known=(value, low, high),
        )


def _answers(context: AuditContext, probed: ProbedModel, members: Members) -> list[tuple[Tensor, Tensor]]:
    heads = [images.name for images in context.test]

    def under_all(sets: Sequence[ImageSet]) -> tuple[Tensor, Tensor]:
        return (
            torch.cat([probed.logits(images, *heads) for images in sets]),
            torch.cat([images.labels.cpu() + joint_labels(context, images.name) for images in sets]),
        )

    return [under_all(sets) for sets in (members.seen, members.unseen, [members.forget], [context.forget])]
