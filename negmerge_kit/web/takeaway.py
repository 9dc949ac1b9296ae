"""Step 4: the unlearned checkpoint and the record of how it was made, written to the app's own folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.lab.card import card, with_file
from negmerge_kit.lab.report import search_json, searched
from negmerge_kit.lab.resident import Choice
from negmerge_kit.scoring.scale import ScaleSearch
from negmerge_kit.types import Json
from negmerge_kit.views.card_files import card_files
from negmerge_kit.web.scored import Scored

WEIGHTS, RECORD = "unlearned.safetensors", "unlearned.json"
MADE_AT_ONCE = 8


class TakeAway:
    """Writes what a visitor downloads; the newest few are kept, so that the folder stays small."""

    def __init__(self, scored: Scored, folder: Path) -> None:
        self._scored, self._folder = scored, folder
        self._turn = threading.Lock()

    def weights(self, choice: Choice, scale: float, keep: float) -> Path:
        """The base's whole key set with the merged delta subtracted; open_clip loads it.

        Raises:
            CheckpointError: if the file cannot be written; the message says why.
        """
        with self._turn:
            found = self._scored.known(choice).searches.get(keep)
            if found and (found.best is None or found.best.scale != scale):
                found = None
            place = self._place(choice, scale, keep if found else None)
            weights, record = place / WEIGHTS, place / RECORD
            if not record.exists():
                bench, told = self._scored.bench, self._card(choice, scale, found)
                # The record comes last: where it is, the weights beside it are whole.
                with card_files(record) as write:
                    save_checkpoint(weights, bench.unlearned(choice, scale), like=bench.pool.base, metadata=told)
                    write(with_file(told, weights))
            return weights

    def record(self, choice: Choice, scale: float, keep: float) -> Path:
        """What was done, as JSON: choice, scores, hashes, versions, and the hash of the weights that go with it."""
        return self.weights(choice, scale, keep).with_name(RECORD)

    def _card(self, choice: Choice, scale: float, found: ScaleSearch | None) -> Json:
        bench, started = self._scored.bench, time.perf_counter()
        if found:
            told = search_json(bench, choice, found, test=True, started=started)
            return card(bench, choice, told, chosen=searched(told))
        by_hand = bench.fixed(choice, scale)
        told = search_json(bench, choice, by_hand, test=True, started=started) | {"keep": None}
        return card(bench, choice, told, chosen="by hand, on the page's slider")

    def _place(self, choice: Choice, scale: float, keep: float | None) -> Path:
        digest = hashlib.sha256(json.dumps([choice.json(), scale, keep], sort_keys=True).encode()).hexdigest()[:16]
        place = self._folder / digest
        place.mkdir(parents=True, exist_ok=True)
        place.touch()
        places = sorted(self._folder.iterdir(), key=lambda folder: folder.stat().st_mtime)
        for old in places[:-MADE_AT_ONCE]:
            if old != place:
                shutil.rmtree(old, ignore_errors=True)
        return place
