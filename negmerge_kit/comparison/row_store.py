"""Finished rows of comparisons, kept in the pool's folder: a comparison goes on where it was stopped.

POOL/comparisons/row-<digest>.json        one row, under what it was made from
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from negmerge_kit.classifier_eval.retrained_model import RetrainedSpec, find_retrained
from negmerge_kit.comparison.methods import RETRAIN_AGAIN, Method
from negmerge_kit.comparison.options import PLAIN, ComparisonOptions
from negmerge_kit.comparison.row import Row
from negmerge_kit.merging.rules import RULES
from negmerge_kit.pools.pool import Pool
from negmerge_kit.pools.result_store import ResultStore, made_with
from negmerge_kit.scoring.early_stopping import Scales
from negmerge_kit.types import Json

KIND = "row"

log = logging.getLogger(__name__)


class RowStore:
    """Rows by base, candidates, images, floor, grid, rule, buffers, options, retrained model, torch, device and version
    of our results.

    With `recompute` nothing is found, and what is finished replaces what was there.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        keep: float,
        scales: Scales,
        buffers: str = "keep",
        device: torch.device,
        recompute: bool = False,
        options: ComparisonOptions = PLAIN,
    ) -> None:
        self._store, self._warned = ResultStore(pool.folder / "comparisons"), False
        self._pool = pool
        self._recompute, self._buffers = recompute, buffers
        self._wanted = RetrainedSpec(seed=options.seed, epochs=options.epochs, device=device.type)
        self._chooses = options.choose == "gap"
        self._made_from: Json = {
            **made_with(device),
            "base": pool.base_file.sha256,
            "heads": pool.heads_file.sha256,
            "scene": pool.scene,
            "keep": keep,
            "scales": None if scales is None else list(scales),
            "terms": options.json(),
        }

    def find(self, method: Method, ids: Sequence[str]) -> Row | None:
        """The row if it was finished before; one that cannot be read counts as none."""
        if self._recompute:
            return None
        try:
            return Row.from_json(method, self._store.get(KIND, self._key(method, ids)))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, row: Row, ids: Sequence[str]) -> None:
        """Write a finished row; a pool's folder that cannot be written keeps none, which is logged once."""
        if not self._store.put(KIND, self._key(row.method, ids), row.json()) and not self._warned:
            self._warned = True
            log.warning("%s cannot be written: finished rules are not kept.", self._store.folder)

    def _key(self, method: Method, ids: Sequence[str]) -> Json:
        files = [self._pool.entry(id).sha256 for id in ids]
        rule = RULES.get(method.rule)
        tried = [rule.resolve(params) if rule else params for params in method.settings]
        # What a baseline does, no candidate changes; what is held against the retrained model, that model does.
        held = find_retrained(self._pool, self._wanted)
        by = find_retrained(self._pool, self._wanted.other) if self._chooses or method.rule == RETRAIN_AGAIN else None
        return self._made_from | {
            "candidates": [] if method.is_baseline else files,
            "rule": method.rule,
            "params": tried,
            "buffers": "keep" if method.is_baseline else self._buffers,
            "retrained": held and held.sha256,
            **({"chooser": by.sha256} if by else {}),
        }
