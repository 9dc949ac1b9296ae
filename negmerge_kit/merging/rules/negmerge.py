"""NegMerge: keep the elements whose sign the candidates share (arXiv:2410.05583)."""

from __future__ import annotations

import torch
from torch import Tensor

from negmerge_kit.merging.deltas import Deltas, divided, masked
from negmerge_kit.merging.rule import Parameter, Rule, Settings
from negmerge_kit.merging.signs import votes_needed

AGREEMENT = Parameter(
    "agreement",
    "Agreement",
    "Share of the candidates that must move an element the same way for it to be kept; 1 asks for all of them.",
    1.0,
    "float",
    low=0.5,
    high=1.0,
    step=0.05,
    low_open=True,
)
AVERAGE = Parameter(
    "average",
    "Average",
    "How the kept values become one: their mean, their median, or the one of smallest or largest magnitude.",
    "mean",
    "choice",
    choices=("mean", "median", "min", "max"),
)
OVER = Parameter(
    "over",
    "Average over",
    "Whether dissenting candidates count in the average: only those that agree, or all of them.",
    "agreeing",
    "choice",
    choices=("agreeing", "all"),
)


def consensus(deltas: Deltas, agreement: float) -> Tensor:
    """The elected sign of each element: +1, -1, or 0 where too few candidates share one.

    sign(0) = 0, so one exact zero breaks unanimity, as in the authors' code.

    >>> chunk = Deltas(torch.zeros(3), [torch.tensor([1.0, -1.0, 0.0]), torch.tensor([3.0, 1.0, 2.0])])
    >>> consensus(chunk, 1.0)
    tensor([1., 0., 0.])
    """
    need = votes_needed(len(deltas), agreement)
    if need == len(deltas):
        up, down = deltas.low > 0, deltas.high < 0
    else:
        ups = torch.zeros_like(deltas.low, dtype=torch.int32)
        downs = torch.zeros_like(ups)
        for delta in deltas:
            ups += delta > 0
            downs += delta < 0
        up, down = ups >= need, downs >= need
    return up.to(deltas.dtype) - down.to(deltas.dtype)


def combine(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """Mean of the candidates where their signs agree, zero elsewhere (equation 4 of the paper at agreement 1).

    An average whose own sign is not the elected one (possible only `over` all candidates) is zero.

    >>> chunk = Deltas(torch.zeros(3), [torch.tensor([1.0, -1.0, 0.0]), torch.tensor([3.0, 1.0, 2.0])])
    >>> combine(chunk, NEGMERGE.resolve({}), None)
    tensor([2., 0., 0.])
    """
    unanimous = votes_needed(len(deltas), settings["agreement"]) == len(deltas)
    if unanimous and settings["average"] == "mean":  # the paper; a mean of one sign needs no second look at it
        return masked(deltas.mean(), deltas.unanimous())
    sign = consensus(deltas, settings["agreement"])
    everyone = settings["over"] == "all" or unanimous
    match settings["average"]:
        case "mean":
            average = deltas.mean() if everyone else _mean_of_agreeing(deltas, sign)
        case "median":
            average = _median(deltas, None if everyone else sign)
        case "min":
            average = _by_magnitude(deltas, None if everyone else sign, largest=False)
        case _:
            average = _by_magnitude(deltas, None if everyone else sign, largest=True)
    return torch.where((sign != 0) & (torch.sign(average) == sign), average, torch.zeros_like(average))


def _mean_of_agreeing(deltas: Deltas, sign: Tensor) -> Tensor:
    total = torch.zeros_like(sign)
    votes = torch.zeros_like(sign)
    for delta in deltas:
        agrees = torch.sign(delta) == sign
        total = total + torch.where(agrees, delta, torch.zeros_like(delta))
        votes = votes + agrees.to(votes.dtype)
    return total / votes.clamp(min=1)


def _median(deltas: Deltas, sign: Tensor | None) -> Tensor:
    """The middle value, or the mean of the two middle ones; with `sign`, of the candidates that agree."""
    stack = torch.stack(list(deltas))
    if sign is None:
        count = torch.full_like(stack[0], len(deltas), dtype=torch.int64)
    else:
        agrees = torch.sign(stack) == sign
        count = agrees.sum(0)
        stack = stack.masked_fill(~agrees, torch.inf)  # dissenters sort behind every vote
    ordered = stack.sort(0).values
    below = ordered.gather(0, ((count - 1).clamp(min=0) // 2).unsqueeze(0))[0]
    above = ordered.gather(0, (count // 2).clamp(max=len(deltas) - 1).unsqueeze(0))[0]
    return divided(below + above, 2)


def _by_magnitude(deltas: Deltas, sign: Tensor | None, *, largest: bool) -> Tensor:
    """The value of smallest or largest magnitude; on a tie the earlier candidate."""
    best: Tensor | None = None
    for delta in deltas:
        if best is None:
            best = delta if sign is None else torch.where(torch.sign(delta) == sign, delta, torch.zeros_like(delta))
            taken = torch.ones_like(best, dtype=torch.bool) if sign is None else best != 0
            continue
        better = delta.abs() > best.abs() if largest else delta.abs() < best.abs()
        if sign is not None:
            agrees = torch.sign(delta) == sign
            better = agrees & (better | ~taken)
            taken = taken | agrees
        best = torch.where(better, delta, best)
    return deltas.total if best is None else best


NEGMERGE = Rule(
    name="negmerge",
    title="NegMerge (sign consensus)",
    paper="https://arxiv.org/abs/2410.05583",
    explains="Averages the candidates where all of them moved the same way, and leaves every other weight alone.",
    parameters=(AGREEMENT, AVERAGE, OVER),
    combine=combine,
)
