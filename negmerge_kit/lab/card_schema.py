"""What a card must hold before anything is read from it: it may come from anywhere."""

from __future__ import annotations

import re
from typing import Any

from negmerge_kit.errors import CardError
from negmerge_kit.outside import NUMBER, wrong_entry
from negmerge_kit.types import Json

SCHEMA = 2
PACKAGES = ("negmerge_kit", "torch", "open_clip_torch", "safetensors", "numpy")
"""Those whose versions a card names."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def _anything(found: object) -> bool:
    """For names beyond a table's own, in what is held against the pool whole."""
    return True


_SCORE = {"value": NUMBER, "n": int, "low": NUMBER, "high": NUMBER, "split": str}
_SIDES = {"forget?": _SCORE, "retain?": _SCORE}
_SCORES = {"base": _SIDES, **_SIDES}
_POINT = {"scale": NUMBER, **_SIDES, "stopped?": str, "gap?": NUMBER, "retain_sets?": dict}
_SEARCH = {
    "method?": str,
    "choose?": str,
    "range?": [NUMBER],
    "ended?": str,
    "curve": [_POINT],
    "retrained?": {"sha256": SHA256, "file?": str, "seed?": int, "epochs?": NUMBER},
}
_LEFT = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "floor": str, "at": NUMBER}
_PROBE = {
    "name": str,
    "asks?": str,
    "base?": _SCORE,
    "unlearned?": _SCORE,
    "retrained?": _SCORE,
    "shuffled?": _SCORE,
    "chance?": NUMBER,
    "verdict?": str,
    "undefined?": str,
    "details?": dict,
    "good?": str,
    "left?": _LEFT,
}
_COSTS = {
    "training_seconds?": NUMBER,
    "merge_seconds?": NUMBER,
    "search_seconds?": NUMBER,
    "peak_memory?": NUMBER,
    "scales_tried?": int,
    "scales_scored_in_full?": int,
}
_FILE = {"sha256": SHA256}
_SET = {"name": str, "split": str, "n": int, "fingerprint": str, ...: _anything}
FIELDS: Json = {
    "schema": int,
    "made": str,
    "operation": str,
    "rule": str,
    "params": dict,
    "buffers": str,
    "scale": NUMBER,
    "chosen": str,
    "keep?": (int, float, dict),
    "search?": _SEARCH,
    "candidates": [{"id": str, "sha256": SHA256, "recipe": dict, "seconds?": NUMBER}],
    "forced?": [str],
    "base": _FILE,
    "heads": _FILE,
    "file?": {"name": str, "sha256?": SHA256, "shards?": dict},
    "scene": {"sets": [_SET], "forget": str, "retain": [str], ...: _anything},
    "elements": int,
    "moved": int,
    "kept": int,
    "kept_fraction?": NUMBER,
    "kept_of_moved?": NUMBER,
    "scores": {"validation": _SCORES, "test?": _SCORES},
    "probes?": [_PROBE],
    "finding?": str,
    "costs": _COSTS,
    "device?": str,
    "versions": {f"{name}?": str for name in ("python", *PACKAGES)},
    "limits": str,
    "pool?": str,
}
"""The card's schema, in the kinds of `outside`."""


def checked_record(record: Any) -> Json:
    """The record itself, if it has what a card has.

    Raises:
        CardError: naming the first entry that is missing or of the wrong kind.

    >>> checked_record({"schema": 1})
    Traceback (most recent call last):
    negmerge_kit.errors.CardError: this card has schema 1, this version reads 2: write it again with `negmerge unlearn`.
    """
    if not isinstance(record, dict):
        raise CardError("this is no unlearning card: give the .json or .md that `negmerge unlearn` wrote.")
    if record.get("schema") != SCHEMA:
        raise CardError(
            f"this card has schema {record.get('schema')}, this version reads {SCHEMA}: "
            "write it again with `negmerge unlearn`."
        )
    wrong = wrong_entry(record, FIELDS)
    if wrong is None and isinstance(floors := record.get("keep"), dict):
        wrong = wrong_entry(floors, {...: NUMBER}, "keep")
    if wrong is not None:
        raise CardError(f"this card's entry '{wrong[0]}' is missing or of the wrong kind: write the card again.")
    if unknown := _unknown(record, FIELDS, ""):
        raise CardError(
            f"this card has an entry '{unknown}', which no card of this version has, so nothing can check it: "
            "take it out, or read the card with the version that wrote it."
        )
    return record


def _unknown(found: Any, kind: Any, name: str) -> str | None:
    """The name of the first entry that its table does not have, in a record that is otherwise of its kinds."""
    if isinstance(kind, list) and found is not None:
        inside = ((item, kind[0], f"{name}[{k}]") for k, item in enumerate(found))
    elif isinstance(kind, dict) and found is not None:
        known = {key.removesuffix("?"): inner for key, inner in kind.items() if key is not ...}
        extra = [key for key in found if key not in known] if ... not in kind else []
        if extra:
            return f"{name}.{extra[0]}".lstrip(".")[:100]
        inside = ((found.get(key), inner, f"{name}.{key}".lstrip(".")) for key, inner in known.items())
    else:
        return None
    return next((unknown for item in inside if (unknown := _unknown(*item))), None)
