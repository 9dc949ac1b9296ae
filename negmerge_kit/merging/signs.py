"""Votes on signs: how many candidates must share one, and how often they would by chance."""

from __future__ import annotations

import math

from negmerge_kit.errors import ParameterError


def votes_needed(n: int, agreement: float = 1.0) -> int:
    """Votes that one sign needs among `n` candidates: ⌈agreement · n⌉.

    `agreement` is a share in (0.5, 1], so the threshold is always a strict majority and at most one sign reaches it;
    1 is the unanimity of NegMerge (https://arxiv.org/abs/2410.05583). Raises ParameterError when `n` is below 1 or
    `agreement` is outside its range: give at least one candidate and a share above one half.

    >>> votes_needed(8), votes_needed(8, 0.8), votes_needed(10, 0.7)
    (8, 7, 7)
    """
    if n < 1:
        raise ParameterError("there are no candidates: give at least one fine-tuned checkpoint.")
    if not 0.5 < agreement <= 1.0:
        raise ParameterError(f"agreement is {agreement}: give a share above 0.5 and at most 1.")
    # 0.7 * 10 is 7.000000000000001 in binary: without the slack it would ask for eight votes.
    return max(math.ceil(agreement * n - 1e-9), n // 2 + 1)


def chance(n: int, agreement: float = 1.0) -> float:
    """Probability that `n` independent fair signs reach the threshold: 2 · P(Bin(n, ½) ≥ ⌈agreement · n⌉).

    At unanimity this is 2^(1-n). It is the line under the measured share of moved elements: agreement above it is
    what the candidates learned in common. Raises ParameterError as `votes_needed` does.

    >>> chance(8), chance(1), chance(4, 0.75)
    (0.0078125, 1.0, 0.625)
    """
    need = votes_needed(n, agreement)
    ways: int = sum(math.comb(n, votes) for votes in range(need, n + 1))
    return float(ways / 2 ** (n - 1))
