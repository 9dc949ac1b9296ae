"""Verify an unlearning card's claims: files hashed, weights merged bit for bit, scores counted again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from negmerge_kit.cards.card import BY_HAND, LIMITS, OPERATION, public, searched, versions
from negmerge_kit.cards.verify_search import check_search, nearest_to
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.classifier_eval.retrained_model import find_retrained
from negmerge_kit.errors import NegmergeError, SceneError
from negmerge_kit.merging.rules import find_rule
from negmerge_kit.pools.pool import Candidate, Pool, StoredFile
from negmerge_kit.scenes.find import scene_from_json
from negmerge_kit.types import Items, Json
from negmerge_kit.unlearning.evaluation import Scores, evaluate_splits
from negmerge_kit.unlearning.workbench import Workbench

if TYPE_CHECKING:
    from negmerge_kit.unlearning.delta_cache import Choice

Audit = Callable[[Workbench, "Choice", float], Json]
"""Runs the probes again and answers what `audit --json` prints."""
ONLY_BESIDE = ("file", "pool")
"""Entries of a card that the record inside the weights cannot have."""
COUNTS = ("elements", "moved", "kept", "kept_fraction", "kept_of_moved")
SPLITS = {"validation": "val", "test": "test"}
NEVER = ("made", "device", "search.method", "costs.merge_seconds", "costs.search_seconds", "costs.peak_memory", "pool")
"""What nothing can recompute: it is named, and no reason to doubt the rest."""


@dataclass(frozen=True)
class Finding:
    """One claim of a card: it holds, it does not, or (None) it was not checked; and why.

    `needed` is False for what nothing can recompute, such as the hour at which the card was made.

    >>> Finding("base", True, "the recorded SHA-256").json()
    {'claim': 'base', 'holds': True, 'says': 'the recorded SHA-256', 'needed': True}
    """

    claim: str
    holds: bool | None
    says: str
    needed: bool = True

    def json(self) -> Json:
        """Plain values, as `verify --json` prints them."""
        return {"claim": self.claim, "holds": self.holds, "says": self.says, "needed": self.needed}


def verify_record(
    record: Json, weights: Path, pool: Pool | None, *, device: str = "auto", audit: Audit | None = None
) -> Iterator[Finding]:
    """Check a card's claims, one after the other, as far as its files are at hand.

    Args:
        record: a card's record, as `read_card` gives it.
        weights: path of the unlearned weights.
        pool: the pool that it was made from (opened with `force`); None leaves most claims unchecked.
        audit: how to run the probes again; None leaves them unchecked, they take a minute.
    """
    yield from _weights(record, weights)
    yield from _words(record, audit)
    yield from _of_pool(record, weights, pool, device, audit)
    here = {name: (made, now) for name, now in versions().items() if (made := record["versions"].get(name)) != now}
    differences = "; ".join(f"{name} {made}, here {now}" for name, (made, now) in here.items())
    yield Finding(
        "versions",
        None if here else True,
        f"made with {differences}" if here else "the ones installed here",
        needed=False,
    )
    for name in NEVER:
        outer, _, inner = name.partition(".")
        if (record.get(outer) or {}).get(inner) is not None if inner else record.get(name) is not None:
            yield Finding(name, None, "nothing recomputes it.", needed=False)


def _of_pool(record: Json, weights: Path, pool: Pool | None, device: str, audit: Audit | None) -> Iterator[Finding]:
    """What needs the pool: its files, its images, the merge, the scores, the search."""
    rest = ["images", "counts", "merge", "scores", "scale", *(["curve"] if record["search"] else [])]
    probed = ["probes"] if record.get("probes") else []
    if pool is None:
        rest = ["base", "heads", "candidates", *rest, *probed]
        yield from (Finding(claim, None, "the pool is not at hand: give --pool POOL.") for claim in rest)
        return
    files = [
        _file("base", pool, pool.base_file, record["base"]["sha256"]),
        _file("heads", pool, pool.heads_file, record["heads"]["sha256"]),
        *(_candidate(pool, claimed) for claimed in record["candidates"]),
    ]
    if all(finding.holds for finding in files):
        files.append(_origin(pool, record))
    yield from files
    missing = "its inputs are not all at hand as they were."
    bench, images = None, Finding("images", None, missing)
    if all(finding.holds for finding in files):
        bench, images = _opened(pool, record, device)
    yield images
    if bench is None:
        yield from (Finding(claim, None, missing) for claim in (*rest[1:], *probed))
        return
    try:
        choice = bench.choose(
            [claimed["id"] for claimed in record["candidates"]],
            record["rule"],
            find_rule(record["rule"]).recorded(record["params"]),
            buffers=record["buffers"],
        )
        yield from _merge(bench, choice, record, weights)
        yield from _scores(bench, choice, record, weights)
        yield from _reference(pool, record)
        yield from (Finding(*said) for said in check_search(bench, choice, record))
        yield from _probes(bench, choice, record, audit)
    except NegmergeError as error:
        yield Finding("merge", False, f"cannot be done again: {error}")


def _words(record: Json, audit: Audit | None) -> Iterator[Finding]:
    """The card's sentences, which follow from its numbers or are the same on every card."""
    version = record["versions"].get("negmerge_kit")
    same = version == versions()["negmerge_kit"]
    by_hand = [record["chosen"]] if record["chosen"] in BY_HAND else list(BY_HAND)
    chosen = [searched(record["search"] | {"keep": record["keep"]})] if record["search"] else by_hand
    for name, expected in (("operation", [OPERATION]), ("limits", [LIMITS]), ("chosen", chosen)):
        if record[name] in expected:
            yield Finding(name, True, "follows from the record" if name == "chosen" else "as on every card")
        elif same:
            yield Finding(name, False, f"the card says otherwise than: {expected[0]}")
        else:
            yield Finding(name, None, f"worded by version {version}, not as here: {expected[0]}")
    if record.get("finding") is not None and not record.get("probes"):
        yield Finding("finding", False, "the card tells a finding, and no probe was run.")
    elif record.get("finding") is not None and audit is None:
        yield Finding("finding", None, "the probes were not run again: give --probes.")


def _weights(record: Json, weights: Path) -> Iterator[Finding]:
    file = record.get("file") or {}
    hashes = file.get("shards") or {file.get("name"): file.get("sha256")}
    places = [weights.parent / Path(str(name)).name for name in hashes] if file.get("shards") else [weights]
    if not all(place.is_file() for place in places):
        yield Finding("weights", None, f"{weights} is not there: give --file FILE.")
        return
    wrong = [p.name for p, digest in zip(places, hashes.values(), strict=True) if sha256_file(p) != digest]
    yield Finding("weights", not wrong, _hashed(not wrong, str(weights)))
    inside = open_checkpoint(weights).metadata
    claimed = {name: value for name, value in record.items() if name not in ONLY_BESIDE}
    changed = sorted(name for name in {*inside, *claimed} if inside.get(name) != claimed.get(name))
    says = f"differs in {', '.join(changed)}" if changed else "the same as the card"
    yield Finding("record inside the weights", not changed, says)


def _file(claim: str, pool: Pool, stored: StoredFile | Candidate, digest: str) -> Finding:
    path = pool.folder / stored.file
    if not path.is_file():
        return Finding(claim, None, f"{path} is not there.")
    same = sha256_file(path) == digest
    return Finding(claim, same, _hashed(same, str(path)))


def _candidate(pool: Pool, claimed: Json) -> Finding:
    claim = f"candidate {claimed['id']}"
    if claimed["id"] not in pool.ids:
        return Finding(claim, None, f"{pool.folder} has no such candidate.")
    entry = pool.entry(claimed["id"])
    if entry.recipe != claimed["recipe"]:
        return Finding(claim, False, f"the pool records another recipe: {entry.recipe}")
    if claimed.get("seconds", entry.seconds) != entry.seconds:
        return Finding(claim, False, f"the pool records {entry.seconds} s of training, the card {claimed['seconds']}")
    return _file(claim, pool, entry, claimed["sha256"])


def _origin(pool: Pool, record: Json) -> Finding:
    seconds = sum(claimed["seconds"] for claimed in record["candidates"] if "seconds" in claimed)
    if record["costs"].get("training_seconds") not in (None, seconds):
        return Finding("origin of the candidates", False, f"they took {seconds} s to train, by the candidates' entries")
    strangers = [claimed["id"] for claimed in record["candidates"] if pool.stranger(pool.entry(claimed["id"]))]
    named = list(record.get("forced") or [])
    if strangers == named:
        return Finding("origin of the candidates", True, "forced: " + ", ".join(named) if named else "all of this base")
    says = f"of another base: {', '.join(strangers) or 'none'}; the card names {', '.join(named) or 'none'}"
    return Finding("origin of the candidates", False, says)


def _opened(pool: Pool, record: Json, device: str) -> tuple[Workbench | None, Finding]:
    """The pool on a device, which checks every image set's fingerprint, and what is to be said of its images."""
    if public(pool.scene) != record["scene"]:
        return None, Finding("images", False, "the pool's scene is not the card's.")
    try:
        bench = Workbench(pool, device=device, memory="none")
    except SceneError as error:
        return None, Finding("images", False if _drawn(pool) else None, str(error))
    return bench, Finding("images", True, f"{len(pool.scene['sets'])} sets with the recorded fingerprints")


def _drawn(pool: Pool) -> bool:
    """Whether the scene's images are here at all: only then can they differ; images that are not here are no fault."""
    try:
        scene_from_json(pool.scene).describe()
    except SceneError:
        return False
    return True


def _merge(bench: Workbench, choice: Choice, record: Json, weights: Path) -> Iterator[Finding]:
    counts = bench.merged(choice).counts
    now = {name: getattr(counts, name) for name in COUNTS}
    wrong = [name for name in COUNTS if record.get(name, now[name]) != now[name]]
    says = ", ".join(f"{name} {record[name]}, recomputed {now[name]}" for name in wrong)
    yield Finding("counts", not wrong, says or f"{counts.kept:,} elements kept of {counts.moved:,} moved")
    if not weights.is_file():
        yield Finding("merge", None, "the weights are not there to compare.")
        return
    written = open_checkpoint(weights)
    other = [name for name, tensor in bench.unlearned(choice, record["scale"]) if not _same_bits(written, name, tensor)]
    says = f"{len(other)} tensors differ, first {other[0]}" if other else f"all {len(written)} tensors, bit for bit"
    yield Finding("merge", not other, says)


def _scores(bench: Workbench, choice: Choice, record: Json, weights: Path) -> Iterator[Finding]:
    for name, split in SPLITS.items():
        claimed = record["scores"].get(name)
        if not claimed:
            yield Finding(f"scores on {name}", None, "the card has none.", needed=False)
            continue
        now = _scored(bench, open_checkpoint(weights).items(), split) if weights.is_file() else None
        now = now or bench.score(choice, record["scale"], split)
        base = bench.base_scores(split)
        pairs = [
            (f"{side} {who}", (claimed.get("base") or {}) if who == "base" else claimed, scores, side)
            for who, scores in (("base", base), ("unlearned", now))
            for side in ("forget", "retain")
        ]
        wrong = [
            f"{what} {_percent(claimed.get(side))}, recomputed {_percent(getattr(scores, side).json())}"
            for what, claimed, scores, side in pairs
            if claimed.get(side) != getattr(scores, side).json()
        ]
        says = "; ".join(wrong) or f"forget {_percent(now.forget.json())}, retain {_percent(now.retain.json())}"
        yield Finding(f"scores on {name}", not wrong, says)


def _scored(bench: Workbench, items: Items, split: str) -> Scores:
    model = bench.fresh_model()
    model.load(items)
    return evaluate_splits(model, bench.images(split))


def _reference(pool: Pool, record: Json) -> Iterator[Finding]:
    """Whether the retrained model that chose the scale is the pool's; nothing where none did."""
    search = record["search"] or {}
    if search.get("choose") != "gap":
        return
    claimed, here = search.get("retrained"), find_retrained(pool)
    if here is None or not claimed:
        lacks = "the pool has none" if here is None else "the card does not name it"
        yield Finding("retrained model", None, f"{lacks}.")
    elif found := find_retrained(pool, nearest_to(record)):
        yield Finding("retrained model", True, _hashed(True, str(found.path)))
    else:
        says = f"another retrained model: {here.path} has another SHA-256 than the card records"
        yield Finding("retrained model", False, says)


def _probes(bench: Workbench, choice: Choice, record: Json, audit: Audit | None) -> Iterator[Finding]:
    claimed = record.get("probes")
    if not claimed:
        return
    if audit is None:
        yield Finding("probes", None, "not run again: give --probes.")
        return
    now = json.loads(json.dumps(audit(bench, choice, record["scale"])))  # as a card holds it
    answers = {probe["name"]: probe for probe in now["probes"]}
    for probe in claimed:
        answer = answers.pop(probe["name"], None)
        same = probe == answer
        yield Finding(f"probe {probe['name']}", same, "the same answers" if same else f"recomputed: {answer}")
    if answers:
        yield Finding("probes", False, f"the card leaves out {', '.join(answers)}.")
    same = record.get("finding") == now["finding"]
    yield Finding("finding", same, "the same" if same else f"recomputed: {now['finding']}")


def _same_bits(written: Mapping[str, Tensor], name: str, tensor: Tensor) -> bool:
    if name not in written:
        return False
    found = written[name]
    return (
        found.shape == tensor.shape
        and found.dtype == tensor.dtype
        and torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    )


def _hashed(same: bool, path: str) -> str:
    return f"{path} has the recorded SHA-256" if same else f"{path} has another SHA-256 than the card records"


def _percent(score: Json | None) -> str:
    return "nothing" if not isinstance(score, dict) else f"{100 * score.get('value', float('nan')):.2f} %"
