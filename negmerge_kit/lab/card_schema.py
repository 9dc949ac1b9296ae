"""What a card must hold before anything is read from it: it may come from anywhere."""

from __future__ import annotations

import re
from typing import Any

from negmerge_kit.errors import CardError
from negmerge_kit.outside import NUMBER, wrong_entry
from negmerge_kit.types import Json

SCHEMA = 2
SHA256 = re.compile(r"[0-9a-f]{64}")

_SCORE = {"value": NUMBER, "n": int, "low": NUMBER, "high": NUMBER, "split": str}
_SIDES = {"forget?": _SCORE, "retain?": _SCORE}
_SCORES = {"base": _SIDES, **_SIDES}
_LEFT = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "floor": str, "at": NUMBER}
_PROBE = {"name": str, "asks?": str, "base?": _SCORE, "unlearned?": _SCORE, "retrained?": _SCORE, "chance?": NUMBER,
          "shuffled?": _SCORE, "verdict?": str, "undefined?": str, "good?": str, "left?": _LEFT}
_COSTS = {"training_seconds?": NUMBER, "merge_seconds?": NUMBER, "search_seconds?": NUMBER, "peak_memory?": NUMBER}
_FILE = {"sha256": SHA256}
FIELDS: Json = {
    "made": str, "operation": str, "rule": str, "params": dict, "buffers": str, "scale": NUMBER, "chosen": str,
    "keep?": (int, float, dict), "search?": {"curve": [{"scale": NUMBER}], "retrained?": _FILE},
    "candidates": [{"id": str, "sha256": SHA256, "recipe": dict}], "forced?": [str], "base": _FILE, "heads": _FILE,
    "file?": {"name": str, "sha256?": SHA256, "shards?": dict},
    "scene": {"sets": [{"name": str, "split": str, "n": int, "fingerprint": str}], "forget": str, "retain": [str]},
    "elements": int, "moved": int, "kept": int, "scores": {"validation": _SCORES, "test?": _SCORES},
    "probes?": [_PROBE], "finding?": str, "costs": _COSTS, "versions": dict, "limits": str,
}  # fmt: skip
"""The card's schema, in the kinds of `outside`."""


def checked_record(record: Any) -> Json:
    """The record itself, if it has what a card has.

    Raises:
        CardError: naming the first entry that is missing or of the wrong kind.

    >>> checked_record({"schema": 1})
    Traceback (most recent call last):
    negmerge_kit.errors.CardError: this card has schema 1, this version reads 2: write it anew with `negmerge unlearn`.
    """
    if not isinstance(record, dict):
        raise CardError("this is no unlearning card: give the .json or .md that `negmerge unlearn` wrote.")
    if record.get("schema") != SCHEMA:
        raise CardError(
            f"this card has schema {record.get('schema')}, this version reads {SCHEMA}: "
            "write it anew with `negmerge unlearn`."
        )
    wrong = wrong_entry(record, FIELDS)
    if wrong is None and isinstance(floors := record.get("keep"), dict):
        wrong = wrong_entry(floors, {...: NUMBER}, "keep")
    if wrong is not None:
        raise CardError(f"this card's entry '{wrong[0]}' is missing or of the wrong kind: write the card again.")
    return record

