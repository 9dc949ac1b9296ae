"""A base of one's own, and candidates that were fine-tuned elsewhere: safetensors that become a pool."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from negmerge_kit.app.plans import BASE, OwnBase, Plan
from negmerge_kit.app.uploads import shown
from negmerge_kit.checkpoints.normalise import fit
from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.errors import CheckpointError, MismatchError, NegmergeError, ParameterError
from negmerge_kit.merging.layout import differences, layout_of
from negmerge_kit.models.tiny_clip import TINY
from negmerge_kit.pools.pool import RECORD
from negmerge_kit.pools.pool_writer import record_candidate, save_candidate, writing
from negmerge_kit.progress import Progress, ProgressFn
from negmerge_kit.sweeps.finetune_job import own_scores
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.types import Items, Weights
from negmerge_kit.unlearning.workbench import Workbench

MOST_CANDIDATES = 64
LONGEST_HEADER = 10 << 20
"""Bytes that the header of an uploaded file may have; a ViT-L's has 0.1 MB."""


@dataclass(frozen=True)
class Sent:
    """Weights that passed every check, while they lie where they arrived."""

    base: OwnBase
    candidates: tuple[Path, ...]


def check_weights(path: Path, like: Checkpoint | None = None) -> Checkpoint:
    """The file's tensors, if it is a safetensors file and nothing else, with numbers in it, and as `like` is.

    Raises:
        CheckpointError: a sentence that names the file as it was sent, not where it lies.
    """
    name = shown(path.name)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    # One that says more than the file has is refused by the reader.
    if LONGEST_HEADER < length <= path.stat().st_size:
        raise CheckpointError(f"{name} has a header of {length >> 20} MB, which no model needs: save it again.")
    try:
        weights = open_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), name)) from None
    if like is not None:
        weights = _as(like, weights, name)
        one, other = weights.layout(), like.layout()
        if unlike := differences({key: other[key] for key in one}, one):
            raise _stranger(name, unlike[0])
    for key in weights:
        tensor = weights.view(key)
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise CheckpointError(f"{name} holds NaN or infinity in {shown(key)}: leave it out, or save it again.")
    return weights


def _as(base: Weights, weights: Checkpoint, name: str) -> Checkpoint:
    """The weights under the base's names; buffers that they lack stay the base's."""
    try:
        return weights.renamed(fit(base, weights).names)
    except MismatchError:
        raise _stranger(name, differences(layout_of(base), weights.layout())[0]) from None


def _stranger(name: str, unlike: str) -> CheckpointError:
    return CheckpointError(f"{name} does not hold the base's tensors ({shown(unlike)}): send candidates of this base.")


def _like(base: Weights, weights: Checkpoint) -> Items:
    """Every entry of the base from the candidate, in the base's dtype; what it lacks from the base."""
    for key, tensor in base.items():
        yield key, weights[key].to(tensor.dtype) if key in weights else tensor


def taken(paths: Sequence[Path], arch: object) -> Sent:
    """The base, which comes first, and candidates, all checked.

    Raises:
        ParameterError: for an architecture that is no text, or too many files.
        CheckpointError: for a file that cannot be used.
    """
    if not isinstance(arch, str) or not arch.strip() or len(arch) > 80 or "/" in arch or "\\" in arch:
        raise ParameterError(f"the architecture must be a name: {TINY}, or as open_clip calls it, such as ViT-B-32.")
    if len(paths) > 1 + MOST_CANDIDATES:
        raise ParameterError(f"{len(paths) - 1} candidates are too many: send at most {MOST_CANDIDATES}.")
    base = check_weights(paths[0])
    votes: dict[str, Path] = {}
    for path in paths:
        if path is not paths[0]:
            check_weights(path, base)
        first = votes.setdefault(sha256_file(path), path)
        if first is not path:
            raise ParameterError(
                f"{shown(path.name)} is {shown(first.name)} again, byte for byte: a candidate is a "
                "fine-tuned copy of its base, and votes once; leave it out."
            )
    return Sent(OwnBase(arch.strip(), paths[0], sha256_file(paths[0])), tuple(paths[1:]))


def opened(plan: Plan, sent: Sent, report: ProgressFn) -> Plan:
    """The plan with its pool made and the candidates in it, each scored alone; nothing of it stays if that fails.

    Raises:
        NegmergeError: for a base that is not of its architecture, or candidates that cannot be scored.
    """
    whole = (plan.folder / RECORD).is_file()  # a pool that was there before stays, whatever happens now
    try:
        report(Progress("Opening the base", 0.0))
        pool, _ = start_pool(plan.scene, plan.folder)
        bench = Workbench(pool, device="cpu")
        with writing(plan.folder):
            for number, path in enumerate(sent.candidates):
                report(
                    Progress(f"Scoring candidate {number + 1} of {len(sent.candidates)}", number / len(sent.candidates))
                )
                recipe = {"file": path.name, "sha256": sha256_file(path)}
                weights = _as(pool.base, open_checkpoint(path), shown(path.name))
                entry = save_candidate(pool, recipe, _like(pool.base, weights))
                bench.hold(entry)
                pool = record_candidate(pool, replace(entry, scores=own_scores(bench, entry.id)))
        whole = True
    except NegmergeError as error:
        message = str(error).replace(str(plan.folder / BASE), "your base").replace(str(plan.folder), "its pool")
        raise type(error)(message) from None
    finally:
        if not whole:
            shutil.rmtree(plan.folder, ignore_errors=True)
    return plan
