"""A linear classifier trained on the model's image features: is the forget set still written in them?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from negmerge_kit.audits.context import AuditContext, ProbedModel
from negmerge_kit.audits.probe import Probe

SETTINGS = {"C": 1.0, "max_iter": 2000}
"""scikit-learn's LogisticRegression, on standardised features."""


def linear_probe(context: AuditContext) -> Iterator[Probe]:
    """Logistic regression (Alain and Bengio 2016, https://arxiv.org/abs/1610.01644) fitted for every model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = context.fit

    def hits(probed: ProbedModel) -> Tensor:
        probe = make_pipeline(StandardScaler(), LogisticRegression(**SETTINGS))
        probe.fit(probed.features(train).numpy(), train.labels.cpu().numpy())
        said = torch.from_numpy(probe.predict(probed.features(context.forget).numpy()))
        return torch.eq(said, context.forget.labels.cpu())

    asks = f"Can a linear classifier trained on the image features tell the classes of {context.forget.name} apart?"
    yield context.answer("linear probe", asks, hits, floor=True, details={"trained_on": len(train), **SETTINGS})
