"""Membership inference: attacks that infer from a model's answers which images it was trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError

Answers: TypeAlias = "tuple[Tensor | Sequence[Any], Tensor | Sequence[Any]]"
"""Logits [n, C] and labels [n] of one set of images."""


def attack_efficacy(member: Answers, nonmember: Answers, target: Answers, feature: str = "confidence") -> float:
    """Share of the target images that the attack calls non-members: what papers report as "MIA", times 100.

    A support vector classifier (scikit-learn's SVC: C = 3, gamma = "auto", RBF kernel, features unscaled) learns to
    separate member from non-member answers *of the unlearned model itself* and then classifies the target, the images
    to forget. Higher means better hidden; the value to reach is that of a model retrained without them, not 1
    (SalUn, Fan et al. 2024, https://arxiv.org/abs/2310.12508, `SVC_MIA_forget_efficacy`).

    Args:
        member: answers on images that the model was trained on and keeps.
        nonmember: answers on images of the same kind that it never saw.
        target: answers on the images to forget.
        feature: what the attack looks at, one of FEATURES. `confidence` is the paper's; `m_entropy_salun` is what
            SalUn's code computes under the name m_entropy, `m_entropy` the published formula.

    Raises:
        ParameterError: for an unknown feature, sets that do not fit together, no images, or NaN logits.

    >>> sure, unsure = [[9.0, 0.0]] * 8, [[0.3, 0.0]] * 8
    >>> attack_efficacy((sure, [0] * 8), (unsure, [0] * 8), (unsure[:4], [0] * 4))
    1.0
    """
    from sklearn.svm import SVC

    if feature not in FEATURES:
        raise ParameterError(f"feature {feature!r} of the membership attack does not exist: choose {_names()}.")
    seen, unseen, asked = (FEATURES[feature](*pair) for pair in _checked(member, nonmember, target))
    # Twenty thousand rows: the default cache of 200 MB would compute most kernel rows again and again. The solution
    # does not depend on it.
    attack = SVC(C=3, gamma="auto", kernel="rbf", cache_size=CACHE_MB)
    attack.fit(torch.cat([seen, unseen]).numpy(), [1.0] * len(seen) + [0.0] * len(unseen))
    return 1.0 - float(attack.predict(asked.numpy()).mean())


def every_efficacy(
    member: Answers, nonmember: Answers, target: Answers, features: Sequence[str] | None = None
) -> dict[str, float]:
    """`attack_efficacy` of several features (all of FEATURES), as many at a time as the process has cores.

    Raises:
        ParameterError: as `attack_efficacy` does.

    >>> sure, unsure = [[9.0, 0.0]] * 8, [[0.3, 0.0]] * 8
    >>> every_efficacy((sure, [0] * 8), (unsure, [0] * 8), (unsure[:4], [0] * 4), ["confidence", "entropy"])
    {'confidence': 1.0, 'entropy': 1.0}
    """
    names = list(FEATURES if features is None else features)
    # The classifier gives Python's lock back while it works: threads are enough.
    with ThreadPoolExecutor(max_workers=min(len(names), AT_ONCE)) as crew:
        found = crew.map(lambda name: attack_efficacy(member, nonmember, target, name), names)
        return dict(zip(names, found, strict=True))


def threshold_efficacy(member: Answers, nonmember: Answers, target: Answers) -> float:
    """Share of the target images whose loss lies above the threshold that best parts members from non-members.

    The attack of Yeom et al. 2018 (https://arxiv.org/abs/1709.01604): members have the smaller cross-entropy. The
    threshold is the member or non-member loss with the best balanced accuracy, the smallest of equals.

    Raises:
        ParameterError: as `attack_efficacy` does.

    >>> sure, unsure = [[9.0, 0.0]] * 3, [[0.3, 0.0]] * 3
    >>> threshold_efficacy((sure, [0] * 3), (unsure, [0] * 3), ([[9.0, 0.0], [0.1, 0.0]], [0, 0]))
    0.5
    """
    seen, unseen, asked = (_loss(*pair) for pair in _checked(member, nonmember, target))
    cuts = torch.cat([seen, unseen]).unique()  # sorted
    inside = torch.searchsorted(seen.sort().values, cuts, right=True) / len(seen)
    outside = 1 - torch.searchsorted(unseen.sort().values, cuts, right=True) / len(unseen)
    return float((asked > cuts[int((inside + outside).argmax())]).double().mean())


def _correctness(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.eq(logits.argmax(1), labels).float()[:, None]


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, labels[:, None])


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    nats: Tensor = torch.special.entr(logits.softmax(1))
    return nats.sum(1, keepdim=True)


def _prob(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.softmax(1)


def _m_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-(1 - p_y) log p_y - Σ_{i≠y} p_i log(1 - p_i) (Song and Mittal 2021, https://arxiv.org/abs/2003.10595)."""
    p = logits.softmax(1)
    right = torch.zeros_like(p, dtype=torch.bool).scatter_(1, labels[:, None], True)
    weight, of = torch.where(right, 1 - p, p), torch.where(right, p, 1 - p)
    return -(weight * _log(of)).sum(1, keepdim=True)


def _m_entropy_salun(logits: Tensor, labels: Tensor) -> Tensor:
    """SalUn's own: log p everywhere, and 1 - p as the weight of every class that occurs among the labels."""
    p = logits.softmax(1)
    weight, named = p.clone(), labels.unique()
    weight[:, named] = 1 - p[:, named]
    return -(weight * _log(p)).sum(1, keepdim=True)


def _log(p: Tensor) -> Tensor:
    logs: Tensor = torch.where(p > 0, p, TINY).log()
    return logs


FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "correctness": _correctness,
    "confidence": _confidence,
    "entropy": _entropy,
    "prob": _prob,
    "m_entropy_salun": _m_entropy_salun,
    "m_entropy": _m_entropy,
}
"""What an attack may look at: logits [n, C] and labels [n] to rows [n, 1] (`prob`: [n, C]), float32."""

TINY = 1e-30
"""Replaces a probability of zero inside a logarithm, as in SalUn's code."""
CACHE_MB = 1000
"""Memory that the classifier may use for kernel rows."""
AT_ONCE = min(4, os.cpu_count() or 1)
"""Attacks that are trained in parallel, each with its own cache."""


def _names() -> str:
    return ", ".join(FEATURES)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def _checked(*pairs: Answers) -> list[tuple[Tensor, Tensor]]:
    """Every pair as float32 logits and int64 labels on the CPU, or ParameterError naming what does not fit."""
    checked = []
    for name, (logits, labels) in zip(("member", "nonmember", "target"), pairs, strict=True):
        rows = torch.as_tensor(logits, dtype=torch.float32).detach().cpu()
        truth = torch.as_tensor(labels, dtype=torch.int64).detach().cpu()
        if rows.ndim != 2 or truth.shape != rows.shape[:1] or not len(truth):
            raise ParameterError(
                f"{name} has logits {list(rows.shape)} and labels {list(truth.shape)}: "
                "give logits [n, C] and labels [n], with at least one image."
            )
        if not bool(torch.isfinite(rows).all()):
            raise ParameterError(f"{name} has NaN or infinite logits: the model's weights are damaged; score another.")
        if not 0 <= int(truth.min()) <= int(truth.max()) < rows.shape[1]:
            raise ParameterError(f"{name} has labels outside its {rows.shape[1]} classes: number them from 0.")
        checked.append((rows, truth))
    if len({rows.shape[1] for rows, _ in checked}) > 1:
        raise ParameterError("member, nonmember and target have different class counts: answer under one head.")
    return checked
