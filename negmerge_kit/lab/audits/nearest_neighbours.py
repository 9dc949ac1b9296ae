"""The nearest images in feature space: does the forget set still lie in clusters of its classes?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from negmerge_kit.lab.audits.case import Case
from negmerge_kit.lab.audits.probe import Probe
from negmerge_kit.lab.audits.subjects import Subject

NEIGHBOURS = 5


def nearest_neighbours(case: Case) -> Iterator[Probe]:
    """Majority of the nearest training images by cosine, scikit-learn's KNeighborsClassifier."""
    from sklearn.neighbors import KNeighborsClassifier

    train = case.fit
    neighbours = min(NEIGHBOURS, len(train))

    def hits(subject: Subject) -> Tensor:
        probe = KNeighborsClassifier(neighbours, metric="cosine")
        probe.fit(subject.features(train).numpy(), train.labels.cpu().numpy())
        said = torch.from_numpy(probe.predict(subject.features(case.forget).numpy()))
        return torch.eq(said, case.forget.labels.cpu())

    asks = f"Do the {neighbours} most similar training images tell the class of an image of {case.forget.name}?"
    details = {"neighbours": neighbours, "metric": "cosine", "trained_on": len(train)}
    yield case.answer("nearest neighbours", asks, hits, floor=True, details=details)
