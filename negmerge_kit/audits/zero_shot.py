"""What the model itself answers: the forget set and the kept sets under their own heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from negmerge_kit.audits.context import AuditContext
from negmerge_kit.audits.probe import HIGHER, LOWER, Measurement, Probe, change


def zero_shot(context: AuditContext) -> Iterator[Probe]:
    """Accuracy on the forget set: the number that unlearning lowers."""
    asks = f"Does the model name images of {context.forget.name} under its own head?"
    yield context.answer("zero-shot", asks, lambda probed: probed.hits(context.forget))


def control_families(context: AuditContext) -> Iterator[Probe]:
    """Accuracy on each kept set, the one that lost most first: pooled retention hides a family that collapsed."""
    families = []
    for images in context.test.retain:
        hits = {who: probed.hits(images) for who, probed in context.asked.items()}
        low, high = change(hits["base"], hits["unlearned"])
        measurements = {who: Measurement.share(right, images.split) for who, right in hits.items()}
        families.append((measurements["unlearned"].value - measurements["base"].value, low, high, images, measurements))
    for lost, low, high, images, measurements in sorted(families, key=lambda family: family[0]):
        yield Probe(
            f"control {images.name}",
            f"Does the model still name images of {images.name}, which it was to keep?",
            measurements,
            1 / len(images.classes),
            details={"change": lost, "change_low": low, "change_high": high, "lost_for_sure": high < 0},
            good=HIGHER,
        )


def joint_labels(context: AuditContext, name: str) -> int:
    """Position of a set's first class among the classes of all heads side by side, forget set first."""
    sizes = {images.name: len(images.classes) for images in context.test}
    return sum(sizes[other] for other in list(sizes)[: list(sizes).index(name)])


def nearest_wrong_class(context: AuditContext) -> Iterator[Probe]:
    """Where the mass went: whether wrong answers gather in one class each, and which families take them in.

    The number is the share of wrong answers that go to their own class's favourite wrong answer, under the set's own
    head. Scattered answers are near chance; answers that gather say that a class was renamed rather than forgotten.
    """
    forget, labels = context.forget, context.forget.labels.cpu()
    classes, names = len(forget.classes), [images.name for images in context.test]
    measurements, details = {}, {}
    for who, probed in context.asked.items():
        said = probed.logits(forget).argmax(1)
        table = torch.zeros(classes, classes, dtype=torch.int64).index_put_((labels, said), torch.ones_like(said), True)
        wrong = table.clone().fill_diagonal_(0)
        favourite = wrong.argmax(1)
        gathered = torch.eq(favourite[labels], said)[said != labels]
        if len(gathered):
            measurements[who] = Measurement.share(gathered, forget.split)
        joint = probed.logits(forget, *names).softmax(1).mean(0)
        masses = joint.split([len(images.classes) for images in context.test])
        details[who] = {
            "wrong": int(wrong.sum()),
            "goes_to": {
                forget.classes[row]: {"class": forget.classes[to], "share": float(wrong[row, to] / table[row].sum())}
                for row, to in enumerate(favourite.tolist())
                if wrong[row, to]
            },
            "mass": {name: float(part.sum()) for name, part in zip(names, masses, strict=True)},
        }
    asks = f"Do wrong answers on {forget.name} gather in one class each, as if it had been renamed?"
    chance = 1 / (classes - 1) if classes > 2 else None
    yield Probe("nearest wrong class", asks, measurements, chance, details=details, good=LOWER)
