"""What a visitor takes away: weights, the record of how they were made, its page, and all of it with the audit."""

from __future__ import annotations

import json
import shutil
import threading
import time
import zipfile
from pathlib import Path

from negmerge_kit.app.score_cache import Scored
from negmerge_kit.audits.audit import Audit
from negmerge_kit.cards.card import BY_HAND, card, searched, with_file
from negmerge_kit.cards.files import card_files
from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.pipeline import search_json
from negmerge_kit.pools.result_store import digest
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.scale_search import ScaleSearch
from negmerge_kit.types import Items, Json
from negmerge_kit.unlearning.delta_cache import Choice

WEIGHTS, RECORD, PAGE, EVERYTHING = "unlearned.safetensors", "unlearned.json", "unlearned.md", "unlearned.zip"
AUDIT = "audit.json"
MADE_AT_ONCE = 8


class Downloads:
    """Writes what a visitor downloads; the newest few are kept, so that the folder stays small."""

    def __init__(self, scored: Scored, folder: Path) -> None:
        self._scored, self._folder = scored, folder
        self._turn = threading.Lock()

    def weights(
        self, choice: Choice, scale: float, keep: float, audit: Audit | None = None, *, report: ProgressFn = no_progress
    ) -> Path:
        """The base's whole key set with the merged delta subtracted; what loads the base's file loads it.

        Raises:
            CheckpointError: if the file cannot be written; the message says why.
        """
        with self._turn:
            found = self._scored.known(choice).searches.get(keep)
            if found and (found.best is None or found.best.scale != scale):
                found = None
            place = self._place(choice, scale, keep if found else None, audit)
            weights, record = place / WEIGHTS, place / RECORD
            if not record.exists():
                report(Progress("Scoring the test images for the record"))
                bench, made = self._scored.bench, self._card(choice, scale, found, audit)
                # The record comes last: where it is, the weights next to it are whole.
                with card_files(record) as write:
                    items = _reporting(bench.unlearned(choice, scale), len(bench.pool.base), report)
                    save_checkpoint(weights, items, like=bench.pool.base, metadata=made)
                    write(with_file(made, weights))
            return weights

    def record(self, choice: Choice, scale: float, keep: float, *, report: ProgressFn = no_progress) -> Path:
        """What was done, as JSON: choice, scores, hashes, versions, and the hash of the weights that go with it."""
        return self.weights(choice, scale, keep, report=report).with_name(RECORD)

    def page(
        self, choice: Choice, scale: float, keep: float, audit: Audit | None = None, *, report: ProgressFn = no_progress
    ) -> Path:
        """The card as Markdown, with the audit's probes if there was one."""
        return self.weights(choice, scale, keep, audit, report=report).with_name(PAGE)

    def everything(
        self, choice: Choice, scale: float, keep: float, audit: Audit | None = None, *, report: ProgressFn = no_progress
    ) -> Path:
        """One zip of weights, record, card and audit."""
        weights = self.weights(choice, scale, keep, audit, report=report)
        path = weights.with_name(EVERYTHING)
        report(Progress("Packing them into one file"))
        with self._turn, atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name in (WEIGHTS, RECORD, PAGE):
                archive.write(weights.with_name(name), name)
            if audit:
                archive.writestr(AUDIT, json.dumps(audit.json(), indent=1, allow_nan=False))
        return path

    def _card(self, choice: Choice, scale: float, found: ScaleSearch | None, audit: Audit | None = None) -> Json:
        probes = audit.json() if audit else None
        bench, started = self._scored.bench, time.perf_counter()
        if found:
            made = search_json(bench, choice, found, test=True, started=started)
            return card(bench, choice, made, chosen=searched(made), probes=probes)
        by_hand = bench.fixed(choice, scale)
        made = search_json(bench, choice, by_hand, test=True, started=started) | {"keep": None}
        return card(bench, choice, made, chosen=BY_HAND[1], probes=probes)

    def _place(self, choice: Choice, scale: float, keep: float | None, audit: Audit | None) -> Path:
        made_of = [choice.json(), choice.files, scale, keep, audit and audit.json()]
        place = self._folder / digest(made_of)[:16]
        place.mkdir(parents=True, exist_ok=True)
        place.touch()
        places = sorted(self._folder.iterdir(), key=lambda folder: folder.stat().st_mtime)
        for old in places[:-MADE_AT_ONCE]:
            if old != place:
                shutil.rmtree(old, ignore_errors=True)
        return place


def _reporting(items: Items, count: int, report: ProgressFn) -> Items:
    for number, item in enumerate(items):
        report(Progress("Writing the weights", number / count))
        yield item
