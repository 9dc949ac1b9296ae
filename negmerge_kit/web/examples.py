"""Examples one click away: what each puts into the controls before the best scale is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.web.address import Address
from negmerge_kit.web.candidates import best

EXAMPLES: Mapping[str, Callable[[str, Pool], Address]] = {
    "NegMerge at its best scale": lambda id, pool: Address(id, list(pool.distinct)),
    "uniform average": lambda id, pool: Address(id, list(pool.distinct), rule="uniform"),
    "one candidate": lambda id, pool: Address(id, best(pool, 1), rule="task-arithmetic"),
}
"""Name to the state that it asks for, whose best scale is then searched."""
