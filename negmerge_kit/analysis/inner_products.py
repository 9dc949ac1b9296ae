"""Inner products of a pool's task vectors, computed from its files once and kept.

POOL/likeness/products-<digest>.json        τi · τj by candidate, under the files that they were computed from
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import isfinite

from negmerge_kit.merging import similarity
from negmerge_kit.merging.health import Health, health
from negmerge_kit.pools.pool import Pool
from negmerge_kit.pools.result_store import RESULTS_VERSION, ResultStore
from negmerge_kit.types import Json

KIND = "products"

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
    if all(map(isfinite, chain.from_iterable(products))):  # those of a damaged candidate are no JSON
        _store(pool).put(KIND, _key(pool), products)
    return products


def known_products(pool: Pool) -> Products | None:
    """The inner products if an earlier call has kept them for these very files."""
    n = len(pool.ids)
    try:
        products = [[float(value) for value in row] for row in _store(pool).get(KIND, _key(pool))]
    except (ValueError, TypeError):
        return None
    return products if [len(row) for row in products] == [n] * n else None


def health_of(pool: Pool, products: Products, ids: Sequence[str] | None = None) -> dict[str, Health]:
    """The health of the candidates `ids` (default: all but copies), each held against the others of them."""
    chosen = [pool.ids.index(id) for id in (pool.distinct if ids is None else ids)]
    part = [[products[i][j] for j in chosen] for i in chosen]
    return dict(zip((pool.ids[i] for i in chosen), health(part), strict=True))


def _store(pool: Pool) -> ResultStore:
    return ResultStore(pool.folder / "likeness")


def _key(pool: Pool) -> Json:
    files = [entry.sha256 for entry in pool.entries]
    return {"results": RESULTS_VERSION, "base": pool.base_file.sha256, "candidates": files}
