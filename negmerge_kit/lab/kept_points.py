"""Points of scale searches, kept in the pool's folder: a killed search goes on, a repeated one costs nothing.

POOL/searches/<digest>.json        the points of one choice on one split, under what they were made from
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.checkpoints.result_store import digest
from negmerge_kit.errors import CheckpointError
from negmerge_kit.lab.provenance import made_with
from negmerge_kit.lab.resident import Choice
from negmerge_kit.outside import read_json
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.curve import NOT_BETTER, Least, Point, Score, stop_early
from negmerge_kit.types import Json

SCHEMA = 1
WRITE_EVERY = 0.2
"""Seconds between two writes: what a kill can cost at most, besides the point at work."""


class KeptPoints:
    """The points of one choice on one split, by a digest of everything that a score depends on.

    Base, heads, candidate files, rule, parameters, images, the code that merges and scores, torch's version and the
    kind of device: anything changed is another file, and a file that cannot be read counts as none. A point that was
    given up is reused only where the bound that it was proved against proves it again; a search is told the same, no
    matter what was asked before it. A folder that cannot be written
    keeps nothing, and the search is merely not remembered.
    """

    def __init__(self, pool: Pool, choice: Choice, split: str, device: torch.device) -> None:
        self._made_from: Json = {
            "schema": SCHEMA,
            **made_with(device),
            "base": pool.base_file.sha256,
            "heads": pool.heads_file.sha256,
            "model": pool.scene["model"],
            "mode": pool.scene["mode"],
            "images": [entry for entry in pool.scene["sets"] if entry["split"] == split],
            "candidates": [pool.entry(id).sha256 for id in choice.candidates],
            "rule": choice.rule,
            "params": dict(choice.params),
            "buffers": choice.buffers,
        }
        self.path = pool.folder / "searches" / f"{digest(self._made_from)[:16]}.json"
        self._entries, self._unsaved, self._may_write = self._read(), False, True
        self._written = time.monotonic()

    def __enter__(self) -> KeptPoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._unsaved:
            self._write()

    def around(self, score: Score) -> Score:
        """The scorer, asked only for what is not known yet."""

        def remembered(
            scale: float, *, forget_at_most: int | None = None, retain_at_least: Least | None = None
        ) -> Point:
            point = self.find(scale, forget_at_most, retain_at_least)
            if point is None:
                point = score(scale, forget_at_most=forget_at_most, retain_at_least=retain_at_least)
                self.keep(point, forget_at_most, retain_at_least)
            return point

        return remembered

    def find(self, scale: float, forget_at_most: int | None, retain_at_least: Least | None) -> Point | None:
        """The point as a scorer would tell it, if it is known in full or its kept bound proves that it cannot win."""
        entry = self._entries.get(scale, {})
        if "sets" in entry:
            forget, sets = entry["forget"], entry["sets"]
            return stop_early(
                [("", forget[0], forget[1])],
                [(name, correct, n) for name, (correct, n, _) in sets.items()],
                forget_n=forget[1],
                retain_n={name: n for name, (_, n, _) in sets.items()},
                forget_at_most=forget_at_most,
                retain_at_least=retain_at_least,
                scale=scale,
                split=forget[2],
            )
        if forget_at_most is not None and entry.get("forget_above", -1) >= forget_at_most:
            return Point(scale, None, None, NOT_BETTER)
        below = entry.get("retain_below")
        if below is not None and retain_at_least is not None and _implied(below["least"], retain_at_least):
            known = entry.get("forget") if forget_at_most is not None else None
            return Point(scale, Accuracy(*known) if known else None, None, below["why"])
        return None

    def keep(self, point: Point, forget_at_most: int | None, retain_at_least: Least | None) -> None:
        """Take in a point that was scored under these bounds."""
        entry = self._entries.setdefault(point.scale, {})
        if point.forget is not None:
            entry["forget"] = _counts(point.forget)
        if point.stopped is None and point.sets:
            entry["sets"] = {name: _counts(score) for name, score in point.sets.items()}
        elif point.stopped == NOT_BETTER and forget_at_most is not None:
            entry["forget_above"] = max(forget_at_most, entry.get("forget_above", -1))
        elif point.stopped and retain_at_least is not None:
            least = dict(retain_at_least) if isinstance(retain_at_least, Mapping) else retain_at_least
            entry["retain_below"] = {"least": least, "why": point.stopped}
        self._unsaved = True
        if time.monotonic() - self._written >= WRITE_EVERY:
            self._write()

    def _write(self) -> None:
        self._written, self._unsaved = time.monotonic(), False
        if not self._may_write:
            return
        points = [{"scale": scale, **entry} for scale, entry in sorted(self._entries.items())]
        try:
            self.path.parent.mkdir(exist_ok=True)
            with atomic_file(self.path) as file:
                file.write(json.dumps({"made_from": self._made_from, "points": points}, indent=1).encode())
        except (OSError, CheckpointError):
            self._may_write = False  # a pool on a read-only disk is searched all the same

    def _read(self) -> dict[float, dict[str, Any]]:
        try:
            record = read_json(self.path, dict)
            if record["made_from"] != json.loads(json.dumps(self._made_from)):
                return {}
            return {float(entry["scale"]): _checked(entry) for entry in record["points"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _implied(proved: int | dict[str, int], least: Least) -> bool:
    """Whether a point that misses the proved counts misses these, too.

    >>> _implied(5, 7), _implied({"a": 5}, {"a": 5, "b": 1}), _implied({"a": 5}, {"a": 4})
    (True, True, False)
    """
    if isinstance(proved, int) and isinstance(least, int):
        return proved <= least
    if isinstance(proved, int) or isinstance(least, int):
        return False
    return all(name in least and needed <= least[name] for name, needed in proved.items())


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry itself, if it is one of ours.

    Raises:
        ValueError: otherwise; a TypeError or KeyError says the same.
    """
    for score in [*entry.get("sets", {}).values(), *([entry["forget"]] if "forget" in entry else [])]:
        correct, n, split = score
        if not (isinstance(correct, int) and isinstance(n, int) and 0 <= correct <= n and isinstance(split, str)):
            raise ValueError(score)
    if "sets" in entry and ("forget" not in entry or not entry["sets"]):
        raise ValueError(entry)
    if not isinstance(entry.get("forget_above", 0), int):
        raise ValueError(entry)
    if "retain_below" in entry:
        _implied(entry["retain_below"]["least"], entry["retain_below"]["least"])
        if not isinstance(entry["retain_below"]["why"], str) or entry["retain_below"]["why"] == NOT_BETTER:
            raise ValueError(entry)
    return entry


def _counts(score: Accuracy) -> list[int | str]:
    return [score.correct, score.n, score.split]
