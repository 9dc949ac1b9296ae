"""The model retrained without the images to forget, POOL/retrained.safetensors: what others are held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from negmerge_kit.checkpoints.pool import MADE_FROM, Pool
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file
from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.types import Items, Json, Weights

FILE = "retrained.safetensors"


@dataclass(frozen=True)
class Retrained:
    """The retrained model of a pool.

    Attributes:
        made_by: how it was trained: `seconds`, and what else was recorded.
    """

    weights: Weights = field(repr=False, compare=False)
    sha256: str
    made_by: Json

    @property
    def seconds(self) -> float:
        """Wall time of its training."""
        return float(self.made_by.get("seconds", 0.0))


def find_retrained(pool: Pool) -> Retrained | None:
    """The pool's retrained model as it is on disk; None if there is none yet.

    Raises:
        PoolError: if the file belongs to another base.
        CheckpointError: if it cannot be read.
    """
    path = pool.folder / FILE
    if not path.is_file():
        return None
    weights = open_checkpoint(path)
    if weights.metadata.get(MADE_FROM) != pool.base_file.sha256:
        raise PoolError(f"{path} was not made for this pool's base: remove it, and retrain anew.")
    return Retrained(weights, sha256_file(path), dict(weights.metadata))


def require_retrained(pool: Pool) -> Retrained:
    """The pool's retrained model, for those who look for the smallest gap to it.

    Raises:
        ParameterError: if there is none.
    """
    found = find_retrained(pool)
    if found is None:
        raise ParameterError(
            f"{pool.folder} has no retrained model to be near to: make it with `negmerge compare {pool.folder} "
            "--baselines retrain --rules none`, or choose by the floor."
        )
    return found


def keep_retrained(pool: Pool, items: Items, made_by: Json) -> Path:
    """Write the retrained model beside the pool's base.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    metadata = {MADE_FROM: pool.base_file.sha256, **made_by}
    return save_checkpoint(pool.folder / FILE, items, like=pool.base, metadata=metadata)
