"""What the model itself answers: the forget set and the kept sets under their own heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from negmerge_kit.lab.audits.case import Case
from negmerge_kit.lab.audits.probe import HIGHER, LOWER, Probe, Reading, change


def zero_shot(case: Case) -> Iterator[Probe]:
    """Accuracy on the forget set: the number that unlearning lowers."""
    asks = f"Does the model name images of {case.forget.name} under its own head?"
    yield case.answer("zero-shot", asks, lambda subject: subject.hits(case.forget))


def control_families(case: Case) -> Iterator[Probe]:
    """Accuracy on each kept set, the one that lost most first: pooled retention hides a family that collapsed."""
    families = []
    for images in case.test.retain:
        hits = {who: subject.hits(images) for who, subject in case.asked.items()}
        low, high = change(hits["base"], hits["unlearned"])
        readings = {who: Reading.share(right, images.split) for who, right in hits.items()}
        families.append((readings["unlearned"].value - readings["base"].value, low, high, images, readings))
    for lost, low, high, images, readings in sorted(families, key=lambda family: family[0]):
        yield Probe(
            f"control {images.name}",
            f"Does the model still name images of {images.name}, which it was to keep?",
            readings,
            1 / len(images.classes),
            details={"change": lost, "change_low": low, "change_high": high, "lost_for_sure": high < 0},
            good=HIGHER,
        )


def joint_labels(case: Case, name: str) -> int:
    """Position of a set's first class among the classes of all heads side by side, forget set first."""
    sizes = {images.name: len(images.classes) for images in case.test}
    return sum(sizes[other] for other in list(sizes)[: list(sizes).index(name)])


def nearest_wrong_class(case: Case) -> Iterator[Probe]:
    """Where the mass went: whether wrong answers gather in one class each, and which families take them in.

    The number is the share of wrong answers that go to their own class's favourite wrong answer, under the set's own
    head. Scattered answers are near chance; answers that gather say that a class was renamed rather than forgotten.
    """
    forget, labels = case.forget, case.forget.labels.cpu()
    classes, names = len(forget.classes), [images.name for images in case.test]
    readings, details = {}, {}
    for who, subject in case.asked.items():
        said = subject.logits(forget).argmax(1)
        table = torch.zeros(classes, classes, dtype=torch.int64).index_put_((labels, said), torch.ones_like(said), True)
        wrong = table.clone().fill_diagonal_(0)
        favourite = wrong.argmax(1)
        gathered = torch.eq(favourite[labels], said)[said != labels]
        if len(gathered):
            readings[who] = Reading.share(gathered, forget.split)
        joint = subject.logits(forget, *names).softmax(1).mean(0)
        masses = joint.split([len(images.classes) for images in case.test])
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
    yield Probe("nearest wrong class", asks, readings, chance, details=details, good=LOWER)
