"""The model that never saw the forget set, where it can be made: the embedded base trained anew without one family."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.errors import ParameterError
from negmerge_kit.lab.training.pretraining import Pretraining, pretrain_tiny
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.types import Json, Weights
from negmerge_kit.vision.families import FAMILIES
from negmerge_kit.vision.tiny import fresh_clip

FILE = "retrained.safetensors"
OTHER_SEED = Pretraining(seed=1)
"""The base's own recipe from another start, as any retrained model has."""


def retrained_reference(
    bench: Workbench, *, recipe: Pretraining = OTHER_SEED, on_step: ProgressFn = no_progress
) -> Weights:
    """Pretrain the embedded model without the pool's forget set, or read what an earlier call left in the pool.

    About two minutes on one core. The file says what it was made with, and is made anew where that differs.

    Raises:
        ParameterError: for a scene of another model; retrain it yourself and give the file.
    """
    scene = bench.scene
    if scene.model != "tiny":
        raise ParameterError(
            f"{scene.name} cannot be retrained here: only the embedded model's pretraining images are known. "
            "Train it without the forget set yourself and give the file."
        )
    path = bench.pool.folder / FILE
    made: Json = {"without": scene.forget, "recipe": asdict(recipe)}
    if not _holds(path, made):
        clip = fresh_clip(recipe.seed).to(bench.model.device)
        families = [name for name in FAMILIES if name != scene.forget]
        for step in pretrain_tiny(clip, recipe, families=families):
            on_step(Progress("step", step=step.index, total=step.total, loss=step.loss))
        save_checkpoint(path, clip.state_dict().items(), like=bench.pool.base, metadata=made)
    return open_checkpoint(path)


def _holds(path: Path, made: Json) -> bool:
    """Whether an earlier run left this very model."""
    return path.is_file() and open_checkpoint(path).metadata == made
