"""The nearest images in feature space: does the forget set still lie in clusters of its classes?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from negmerge_kit.audits.context import AuditContext, ProbedModel
from negmerge_kit.audits.probe import Probe

NEIGHBOURS = 5


def nearest_neighbours(context: AuditContext) -> Iterator[Probe]:
    """Majority of the nearest training images by cosine, scikit-learn's KNeighborsClassifier."""
    from sklearn.neighbors import KNeighborsClassifier

    train = context.fit
    neighbours = min(NEIGHBOURS, len(train))

    def hits(probed: ProbedModel) -> Tensor:
        probe = KNeighborsClassifier(neighbours, metric="cosine")
        probe.fit(probed.features(train).numpy(), train.labels.cpu().numpy())
        said = torch.from_numpy(probe.predict(probed.features(context.forget).numpy()))
        return torch.eq(said, context.forget.labels.cpu())

    asks = f"Do the {neighbours} most similar training images tell the class of an image of {context.forget.name}?"
    details = {"neighbours": neighbours, "metric": "cosine", "trained_on": len(train)}
    yield context.answer("nearest neighbours", asks, hits, floor=True, details=details)
