"""Task arithmetic: negate one candidate's task vector (arXiv:2212.04089)."""

from __future__ import annotations

from torch import Tensor

from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.deltas import Deltas
from negmerge_kit.merging.rule import Parameter, Rule, Settings


def combine(deltas: Deltas, settings: Settings, survey: object) -> Tensor:
    """τk of the chosen candidate, counted from 1; ParameterError when there are fewer.

    >>> import torch
    >>> combine(Deltas(torch.zeros(1), [torch.tensor([1.0]), torch.tensor([3.0])]), {"candidate": 2}, None)
    tensor([3.])
    """
    position = settings["candidate"]
    if position > len(deltas):
        raise ParameterError(f"candidate is {position}: there are {len(deltas)}, give a number from 1 to that.")
    return deltas[position - 1]


TASK_ARITHMETIC = Rule(
    name="task-arithmetic",
    title="Task arithmetic (one candidate)",
    paper="https://arxiv.org/abs/2212.04089",
    explains="Uses one candidate alone and ignores the others: plain negation of its task vector.",
    parameters=(
        Parameter(
            "candidate",
            "Candidate",
            "Which candidate is negated, counted from 1 in the order given.",
            1,
            "int",
            low=1,
            high=100,
            step=1,
        ),
    ),
    combine=combine,
)
