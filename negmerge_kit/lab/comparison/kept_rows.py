"""Finished rows of comparisons, kept in the pool's folder: a comparison goes on where it was stopped.

POOL/comparisons/row-<digest>.json        one row, under what it was made from
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.checkpoints.result_store import ResultStore, made_with
from negmerge_kit.lab.comparison.entrants import RETRAIN_AGAIN, Entrant
from negmerge_kit.lab.comparison.rows import Row
from negmerge_kit.lab.comparison.terms import PLAIN, Terms
from negmerge_kit.lab.retrained import Wanted, find_retrained
from negmerge_kit.merging.rules import RULES
from negmerge_kit.scoring.early_stopping import Scales
from negmerge_kit.types import Json

KIND = "row"

log = logging.getLogger(__name__)


class KeptRows:
    """Rows by base, candidates, images, floor, grid, rule, buffers, terms, retrained model, torch, device and version
    of our results.

    With `anew` nothing is found, and what is finished replaces what was there.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        keep: float,
        scales: Scales,
        buffers: str = "keep",
        device: torch.device,
        anew: bool = False,
        terms: Terms = PLAIN,
    ) -> None:
        self._store, self._warned = ResultStore(pool.folder / "comparisons"), False
        self._pool = pool
        self._anew, self._buffers = anew, buffers
        self._wanted = Wanted(seed=terms.seed, epochs=terms.epochs, device=device.type)
        self._chooses = terms.choose == "gap"
        self._made_from: Json = {
            **made_with(device),
            "base": pool.base_file.sha256,
            "heads": pool.heads_file.sha256,
            "scene": pool.scene,
            "keep": keep,
            "scales": None if scales is None else list(scales),
            "terms": terms.json(),
        }

    def find(self, entrant: Entrant, ids: Sequence[str]) -> Row | None:
        """The row if it was finished before; one that cannot be read counts as none."""
        if self._anew:
            return None
        try:
            return Row.from_json(entrant, self._store.get(KIND, self._key(entrant, ids)))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, row: Row, ids: Sequence[str]) -> None:
        """Write a finished row; a pool's folder that cannot be written keeps none, which is logged once."""
        if not self._store.put(KIND, self._key(row.entrant, ids), row.json()) and not self._warned:
            self._warned = True
            log.warning("%s cannot be written: finished rules are not kept.", self._store.folder)

    def _key(self, entrant: Entrant, ids: Sequence[str]) -> Json:
        files = [self._pool.entry(id).sha256 for id in ids]
        rule = RULES.get(entrant.rule)
        tried = [rule.resolve(params) if rule else params for params in entrant.settings]
        # What a baseline does, no candidate changes; what is held against the retrained model, that model does.
        held = find_retrained(self._pool, self._wanted)
        by = find_retrained(self._pool, self._wanted.other) if self._chooses or entrant.rule == RETRAIN_AGAIN else None
        return self._made_from | {
            "candidates": [] if entrant.is_baseline else files,
            "rule": entrant.rule,
            "params": tried,
            "buffers": "keep" if entrant.is_baseline else self._buffers,
            "retrained": held and held.sha256,
            **({"chooser": by.sha256} if by else {}),
        }
