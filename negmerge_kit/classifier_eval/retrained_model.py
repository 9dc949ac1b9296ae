"""Models retrained without the images to forget, the reference of all others: one for each seed and length.

POOL/retrained-<digest>.safetensors        under base, remaining images, network, recipe with its epochs and seed, and
                                           what trained it: results version, torch, the kind of device
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.errors import CheckpointError, ParameterError
from negmerge_kit.pools.pool import Pool
from negmerge_kit.pools.result_store import KEY, ResultStore, made_with
from negmerge_kit.scenes.find import scene_from_json
from negmerge_kit.training.from_scratch import BaseTraining
from negmerge_kit.training.recipe import SEEDS
from negmerge_kit.types import Json, Weights

KIND = "retrained"
KEY_OF_0_1 = "retraining"
"""Where version 0.1 wrote what a file was made from."""


@dataclass(frozen=True)
class RetrainedSpec:
    """Selects one of a pool's retrained models.

    Attributes:
        seed: of its training; None takes any model: one trained as the base was before others, of these the smallest
            seed.
        epochs: of its training, where not the base's own; used only with a seed.
        device: kind of device that trained it, with this torch and under this version of our results: what another one
            trained is not held against what is trained here. None takes any; used only with a seed.
        sha256: of its file, before all others.
        another: where no seed is named, the one after the first of those trained as the base was, if there are two.
    """

    seed: int | None = None
    epochs: int | None = None
    sha256: str | None = None
    device: str | None = None
    another: bool = False

    @property
    def other(self) -> RetrainedSpec:
        """The retrained model that chooses where this one judges: of the next seed."""
        if self.seed is None:
            return replace(self, another=True)
        return replace(self, seed=(self.seed + 1) % SEEDS)


ANY_RETRAINED = RetrainedSpec()


@dataclass(frozen=True)
class RetrainedModel:
    """A retrained model of a pool.

    Attributes:
        made_by: how it was trained: `seconds`, and what else was recorded.
    """

    weights: Weights = field(repr=False, compare=False)
    path: Path
    sha256: str
    made_by: Json

    @property
    def seconds(self) -> float:
        """Wall time of its training and of its scoring on validation."""
        return float(self.made_by.get("seconds", 0.0))

    def json(self) -> Json:
        """Which one it is, as a search or a card names it."""
        made = _made_from(self.made_by)
        named = {"file": self.path.name, "sha256": self.sha256}
        return named | {"seed": made.get("seed", made["recipe"]["seed"]), "epochs": made["recipe"]["epochs"]}


def retraining(pool: Pool, seed: int, epochs: int | None = None) -> Json:
    """What a retrained model of that seed is made from: another base, split, network or recipe is another file.

    The recipe's seed is the one that `BaseTraining.retrained` makes of the seed asked for.
    """
    training = BaseTraining.of(scene_from_json(pool.scene))
    training = training.but(epochs=epochs or training.recipe.epochs).retrained(seed)
    remaining = {entry["fingerprint"] for entry in pool.scene["sets"] if entry["name"] == "remaining"}
    return {
        "seed": seed,
        "base": pool.base_file.sha256,
        "remaining": sorted(remaining),
        "model": pool.scene["model"],
        **training.json(),
    }


def find_retrained(pool: Pool, wanted: RetrainedSpec = ANY_RETRAINED) -> RetrainedModel | None:
    """The wanted retrained model as it is on disk; None if there is none yet.

    Raises:
        CheckpointError: if a file cannot be read.
    """
    if "forgetting" not in pool.scene:  # a model with a text tower was not trained here
        return None
    ours = retraining(pool, wanted.seed or 0, wanted.epochs)
    here = made_with(torch.device(wanted.device or "cpu"))
    ranked = []
    for path in pool.folder.glob(f"{KIND}-*.safetensors"):
        made = _made_from(open_checkpoint(path).metadata)
        if any(made.get(name) != ours[name] for name in ("base", "remaining", "model")):
            continue
        if "seed" not in made and wanted.sha256 is None:
            continue  # of an earlier version, perhaps with the base's first weights: used only if its file is named
        if wanted.sha256 is None and wanted.seed is not None:
            needed = ours | (here if wanted.device else {})
            if any(made.get(name) != needed[name] for name in needed):
                continue
        another = _but_seed({name: made.get(name) for name in ours}) != _but_seed(ours)
        stale = any(made.get(name) != here[name] for name in ("results", "torch"))
        ranked.append((another, made.get("seed", -1), stale, path.name, path))
    ranked.sort()
    if wanted.another:  # the first one judges
        others = [found for found in ranked if not found[0] and found[1] != ranked[0][1]]
        ranked = [*others, *ranked]
    for *_, path in ranked:
        if wanted.sha256 in (None, sha256_file(path)):
            return _read(path)
    return None


def require_retrained(pool: Pool, wanted: RetrainedSpec = ANY_RETRAINED) -> RetrainedModel:
    """The wanted retrained model, for a search by the smallest gap to it.

    Raises:
        ParameterError: if there is none.
    """
    found = find_retrained(pool, wanted)
    if found is None:
        of, flag = ("", "") if wanted.seed is None else (f" of seed {wanted.seed}", f" --seed {wanted.seed}")
        if wanted.seed is not None and wanted.device:
            if wanted.epochs is not None:
                of = f"{of} and {wanted.epochs} epoch{'s' * (wanted.epochs > 1)}"
                flag = f"{flag} --epochs {wanted.epochs}"
            of, flag = f"{of} that this version trained on {wanted.device}", f"{flag} --device {wanted.device}"
        raise ParameterError(
            f"{pool.folder} has no retrained model{of} to be near to: make it with `negmerge compare {pool.folder} "
            f"--baselines retrain --rules none{flag}`, or choose by the floor."
        )
    return found


def keep_retrained(pool: Pool, weights: Weights, made_by: Json, wanted: RetrainedSpec) -> None:
    """Write a retrained model of that seed, trained now on that kind of device, into the pool's folder.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    assert wanted.seed is not None and wanted.device is not None
    made = retraining(pool, wanted.seed, wanted.epochs) | made_with(torch.device(wanted.device))
    metadata = {MADE_FROM: pool.base_file.sha256, **made_by}
    if not ResultStore(pool.folder).put_tensors(KIND, made, weights, like=pool.base, metadata=metadata):
        raise CheckpointError(
            f"the retrained model cannot be written into {pool.folder}: make room there, or compare a copy of the pool "
            "in a folder that may be written to."
        )


def _made_from(metadata: Json) -> Json:
    found = metadata.get(KEY, metadata.get(KEY_OF_0_1))
    return found if isinstance(found, dict) else {}


def _but_seed(made: Json) -> Json:
    return {**made, "seed": None, "recipe": {**made["recipe"], "seed": None}}


def _read(path: Path) -> RetrainedModel:
    weights = open_checkpoint(path)
    return RetrainedModel(weights, path, sha256_file(path), dict(weights.metadata))
