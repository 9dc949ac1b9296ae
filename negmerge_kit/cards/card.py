"""The unlearning card as data: weights, method, scores, and limits of what they show."""

from __future__ import annotations

import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.errors import CardError
from negmerge_kit.safe_json import NUMBER, wrong_entry
from negmerge_kit.scoring.retention_floor import keep_text
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.unlearning.delta_cache import Choice
    from negmerge_kit.unlearning.workbench import Workbench

LIMITS = (
    "This card is no proof of deletion: lower accuracy on the forget set does not prove that the knowledge is gone. "
    "It may still be read from the features or relearned quickly, and what holds on these images need not hold on "
    "others."
)
"""What every card says about itself."""
OPERATION = "base - scale * merged delta"
BY_HAND = ("by hand", "by hand, on the page's slider")
"""How a scale was chosen that no search found."""


def card(bench: Workbench, choice: Choice, result: Json, *, chosen: str, probes: Json | None = None) -> Json:
    """The record of an unlearned file: inputs, method, scores and limits.

    Args:
        result: the object of `search_json`, with a scale and the scores on test; "retrained" names the model that a
            search by the gap was held against.
        chosen: how the scale was chosen, in words; `keep` of the result is None where it was chosen by hand.
        probes: what `audit --json` printed about this choice at this scale, if an audit was run.
    """
    merged, pool = bench.merged(choice), bench.pool
    counts, entries = merged.counts, [pool.entry(id) for id in choice.candidates]
    return {
        "schema": SCHEMA,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "operation": OPERATION,
        "rule": choice.rule,
        "params": dict(choice.params),
        "buffers": choice.buffers,
        "scale": result["scale"],
        "chosen": chosen,
        "keep": result["keep"],
        "search": None
        if result["keep"] is None
        else {
            "method": result.get("method"),
            "choose": result.get("choose", "floor"),
            "range": result["range"],
            "ended": result["ended"],
            "curve": result["curve"],
            "retrained": result.get("retrained"),
        },
        "candidates": [
            {"id": entry.id, "sha256": entry.sha256, "recipe": entry.recipe, "seconds": entry.seconds}
            for entry in entries
        ],
        "forced": [entry.id for entry in entries if pool.stranger(entry)],
        "base": {"sha256": pool.base_file.sha256},
        "heads": {"sha256": pool.heads_file.sha256},
        "scene": public(pool.scene),
        "elements": counts.elements,
        "moved": counts.moved,
        "kept": counts.kept,
        "kept_fraction": counts.kept_fraction,
        "kept_of_moved": counts.kept_of_moved,
        "scores": {
            "validation": {"base": result["base"], "forget": result["forget"], "retain": result["retain"]},
            "test": result["test"],
        },
        "probes": None if probes is None else probes["probes"],
        "finding": None if probes is None else probes.get("finding"),
        "costs": {
            "training_seconds": sum(entry.seconds for entry in entries),
            "merge_seconds": merged.seconds,
            "search_seconds": result["seconds"],
            "scales_tried": len(result["curve"]),
            "scales_scored_in_full": sum(point["stopped"] is None for point in result["curve"]),
            "peak_memory": peak_memory(),
        },
        "device": str(bench.model.device),
        "versions": versions(),
        "limits": LIMITS,
    }


def with_file(record: Json, weights: Path) -> Json:
    """The card, naming the weights that it goes with: file name and SHA-256, of every shard where there are some."""
    from negmerge_kit.checkpoints.reader import open_checkpoint

    hashes = {file.name: sha256_file(file) for file in open_checkpoint(weights).files}
    return record | {
        "file": {"name": weights.name, "sha256": hashes[weights.name]}
        if weights.name in hashes
        else {"name": weights.name, "shards": hashes}
    }


def public(value: Any) -> Any:
    """The same with every local path cut to its last part: a card travels, the folders of its maker do not.

    >>> public({"forget": "folder:/home/me/cars", "model": {"arch": "ViT-B-32", "pretrained": "/data/b.safetensors"}})
    {'forget': 'folder:cars', 'model': {'arch': 'ViT-B-32', 'pretrained': 'b.safetensors'}}
    """
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    kind, path = ("folder:", value.removeprefix("folder:")) if value.startswith("folder:") else ("", value)
    return kind + PurePath(path).name if kind or PurePath(path).is_absolute() else value


def versions() -> Json:
    """Python's and the packages' versions here; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def peak_memory() -> int | None:
    """The most memory this process has held so far, in bytes; None where the system does not report it."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
"""The card's schema, in the kinds of `safe_json`."""


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


def searched(result: Json) -> str:
    """How a search chose its scale, in words; by the gap it keeps no floor, and `keep` is 0.

    >>> searched({"curve": [{"scale": 0.0}, {"scale": 0.5}, {"scale": 1.0}], "keep": 0.95})
    "search over 3 scales from 0 to 1 on validation, keeping at least 0.95 of the base's retention"
    """
    scales = [point["scale"] for point in result["curve"]]
    over = f"search over {len(scales)} scales from {scales[0]:g} to {scales[-1]:g} on validation"
    if result.get("choose") == "gap":
        return f"{over}, nearest to the retrained model"
    return f"{over}, keeping at least {keep_text(result['keep'])}"
