"""The model that never saw the forget set, where it can be made: the embedded base pretrained without one family."""

from __future__ import annotations

from dataclasses import asdict

from negmerge_kit.data.embedded import FAMILIES
from negmerge_kit.errors import ParameterError
from negmerge_kit.models.tiny_clip import fresh_clip
from negmerge_kit.pools.result_store import RESULTS_VERSION, ResultStore
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.training.pretraining import Pretraining, pretrain_tiny
from negmerge_kit.types import Json, Weights
from negmerge_kit.unlearning.workbench import Workbench

KIND = "retrained"
OTHER_SEED = Pretraining(seed=1)
"""The base's own recipe from another start, as any retrained model has."""


def retrained_reference(
    bench: Workbench, *, recipe: Pretraining = OTHER_SEED, on_step: ProgressFn = no_progress
) -> Weights:
    """Pretrain the embedded model without the pool's forget set, or read what an earlier call left in the pool.

    About two minutes on one core. A pool's folder that cannot be written keeps nothing.

    Raises:
        ParameterError: for a scene of another model; retrain it yourself and give the file.
    """
    scene = bench.scene
    if scene.model != "tiny":
        raise ParameterError(
            f"{scene.name} cannot be retrained here: only the embedded model's pretraining images are known. "
            "Train it without the forget set yourself and give the file."
        )
    if found := find_reference(bench, recipe=recipe):
        return found
    clip = fresh_clip(recipe.seed).to(bench.model.device)
    families = [name for name in FAMILIES if name != scene.forget]
    for step in pretrain_tiny(clip, recipe, families=families):
        on_step(Progress("step", step=step.index, total=step.total, loss=step.loss))
    weights: Weights = clip.state_dict()
    _store(bench).put_tensors(KIND, _key(bench, recipe), weights, like=bench.pool.base)
    return weights


def find_reference(bench: Workbench, *, recipe: Pretraining = OTHER_SEED) -> Weights | None:
    """The model that an earlier `retrained_reference` left in the pool, or None."""
    return _store(bench).get_tensors(KIND, _key(bench, recipe))


def _store(bench: Workbench) -> ResultStore:
    return ResultStore(bench.pool.folder)


def _key(bench: Workbench, recipe: Pretraining) -> Json:
    """What the model was made from; a reference that another device or torch trained is as good, and stays."""
    return {"results": RESULTS_VERSION, "without": bench.scene.forget, "recipe": asdict(recipe)}
