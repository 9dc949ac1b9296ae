"""How alike a pool's candidates are, asked of its files once: the inner products of their task vectors.

POOL/likeness.json        τi · τj by candidate, under the files that they were computed from
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging import similarity
from negmerge_kit.merging.outliers import Outlier, outliers
from negmerge_kit.types import Json

FILE, SCHEMA = "likeness.json", 1

Products = list[list[float]]
"""τi · τj, candidates in the pool's order."""


def inner_products(pool: Pool, *, device: str = "cpu") -> Products:
    """Inner products of the candidates' task vectors; one streamed pass over their files, unless they are known.

    A folder that cannot be written keeps nothing, and the next call computes them again.

    Raises:
        MismatchError, CheckpointError: as `sign_agreement`.
    """
    found = known_products(pool)
    if found is not None or not pool.ids:
        return found or []
    products = similarity.inner_products(pool.base, pool.candidates, device=device)
    try:
        with atomic_file(pool.folder / FILE) as file:
            file.write(json.dumps({**_made_from(pool), "products": products}).encode())
    except (OSError, CheckpointError):
        pass
    return products


def known_products(pool: Pool) -> Products | None:
    """The inner products if an earlier call has kept them for these very files."""
    try:
        told = json.loads((pool.folder / FILE).read_text(encoding="utf-8"))
        products = [[float(value) for value in row] for row in told.pop("products")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    n = len(pool.ids)
    return products if told == _made_from(pool) and [len(row) for row in products] == [n] * n else None


def outliers_of(pool: Pool, products: Products, ids: Sequence[str] | None = None) -> list[tuple[str, Outlier]]:
    """The candidates among `ids` (default: all but copies) that do not belong with the rest (see `outliers`)."""
    chosen = [pool.ids.index(id) for id in (pool.distinct if ids is None else ids)]
    part = [[products[i][j] for j in chosen] for i in chosen]
    return [(pool.ids[chosen[found.index]], found) for found in outliers(part)]


def _made_from(pool: Pool) -> Json:
    return {"schema": SCHEMA, "base": pool.base_file.sha256, "candidates": [entry.sha256 for entry in pool.entries]}
