"""Start of a pool: any scene's base and heads, the folder of an embedded one, and its base pretrained from scratch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.data.decoded_cache import cache_folder
from negmerge_kit.data.embedded import FAMILIES
from negmerge_kit.devices import pick_device
from negmerge_kit.errors import DivergedError, OtherRunError, ParameterError, PoolBusyError, PoolError
from negmerge_kit.models.tiny_clip import SHIPPED, TOKEN_EMBEDDING, fresh_clip, token_embedding
from negmerge_kit.pools.pool import RECORD, Pool, open_pool
from negmerge_kit.pools.pool_writer import create_pool, restore_base, set_aside_damaged, writing
from negmerge_kit.pools.result_store import digest
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.find import TINY_CLASSIFIER, open_scene
from negmerge_kit.scenes.scene import Scene
from negmerge_kit.training.from_scratch import BaseTraining, base_recipe
from negmerge_kit.training.pretraining import pretrain_tiny
from negmerge_kit.training.recipe import grid
from negmerge_kit.training.resume import recipe_of
from negmerge_kit.types import Json, Weights


def default_folder(scene: Json) -> Path:
    """The user's cache folder for a scene; other images, other shipped weights or another default grid get another one.

    >>> default_folder({"name": "tiny:digits"}).name.startswith("tiny-digits-")
    True
    """
    made_from = digest([scene, sha256_file(SHIPPED), [recipe.json() for recipe in grid(default_grid(scene))]])[:8]
    return cache_folder() / "pools" / f"{scene['name'].replace(':', '-')}-{made_from}"


STATE = "base.unfinished.safetensors"
"""State of a base whose training was stopped, in the pool's folder until the base is written."""

POLL_SECONDS = 0.2


def start_pool(
    name: str | Path | Scene,
    folder: Path | None = None,
    *,
    pretrain: Callable[[], Weights] | None = None,
    device: str = "auto",
    on_step: ProgressFn = no_progress,
    on_wait: Callable[[Path], None] = lambda folder: None,
) -> tuple[Pool, list[str]]:
    """Make the pool of a scene, or open the one that is there.

    The base and the heads are the scene's model's or, where the scene is named by another pool's folder, that pool's.
    Files that changed since they were written are set aside and listed: base and heads are written again at once,
    candidates by the next sweep.

    Args:
        name: a scene, or what `open_scene` makes one of: `tiny:digits`, a pool's folder or a FILE.toml.
        folder: where the pool lies; by default, for embedded scenes only, in the user's cache folder.
        pretrain: makes other base weights than the shipped ones, where the folder holds no pool yet. The base of a
            standard classifier that names no weights is always made: by this, or as `trained_base` does, which goes
            on where it was stopped.
        device: where such a base is trained.
        on_step: called at each step of its training.
        on_wait: called once with the folder, where another process is making this very pool. That one is waited for,
            and taken over from if it ends without having written the base.

    Returns:
        The pool, and one sentence for each file that was set aside.

    Raises:
        PoolError: if the folder cannot be written, holds the pool or the unfinished base of another scene, or has
            lost a base that was trained here.
        ParameterError: if a folder is needed and none is given.
        SceneError: if there is no such scene, or its images are not those that the pool was made with.
    """
    scene = _with_training(name if isinstance(name, Scene) else open_scene(name))
    place = None if isinstance(name, Scene) else Path(name)
    if folder is None and not is_embedded(scene):
        raise ParameterError(f"the pool of {scene.name} needs a folder: name one with --out.")
    if pretrain is not None and folder is None and not scene.own_head:
        raise ParameterError("a base pretrained from scratch needs a folder of its own: name one with --out.")
    described = scene.describe()
    folder = folder or default_folder(described)

    def trained() -> Weights:
        try:
            return trained_base(scene, device, on_step, resume=folder / STATE)
        except OtherRunError as error:
            raise _unfinished(folder, error.what) from None

    made, waiting = trained if pretrain is None and scene.trains_base else pretrain, False
    while True:
        try:
            with writing(folder):
                if not (folder / RECORD).exists():
                    if (folder / STATE).exists() and (made is not trained or _is_other(place, None)):
                        recipe = recipe_of(folder / STATE)
                        raise _unfinished(folder, f"{recipe.label if recipe else 'unknown'}; here none is trained")
                    create_pool(folder, described, *_weights(scene, place, made))
                pool = _open_of(scene, folder)
                (folder / STATE).unlink(missing_ok=True)
                notes = _restored(pool, scene, place, made)
                pool, damaged = set_aside_damaged(pool)
                return pool, notes + damaged
        except PoolBusyError:
            # Another process fills this very pool: share it once its base is written.
            if (folder / RECORD).exists():
                return _open_of(scene, folder), []
            if not waiting:
                on_wait(folder)
            waiting = True
            time.sleep(POLL_SECONDS)


def _unfinished(folder: Path, which: str) -> PoolError:
    """Error for a folder that holds another run's partly trained base, which would be lost."""
    return PoolError(
        f"{folder} holds an unfinished base of another run ({which}): finish it as it was begun, "
        f"choose another folder with --out, or delete {folder / STATE} to start over."
    )


def _restored(pool: Pool, scene: Scene, place: Path | None, made: Callable[[], Weights] | None) -> list[str]:
    """Write base and heads again where they changed; a trained base only if another pool still has it."""
    lost = pool.problem(pool.base_file)
    if not lost and not pool.problem(pool.heads_file):
        return []
    if scene.trains_base and not _is_other(place, pool.folder):
        if lost:
            raise PoolError(
                f"{pool.folder / pool.base_file.file} is missing or changed, and training does not give the same bytes "
                f"again: delete {pool.folder} and build the pool again."
            )
        return restore_base(pool, pool.base, {})
    return restore_base(pool, *_weights(scene, place, made, but=pool.folder))


def _open_of(scene: Scene, folder: Path) -> Pool:
    """The pool in `folder`, if it is this scene's."""
    pool = open_pool(folder)
    if pool.scene["name"] != scene.name:
        raise PoolError(f"{folder} holds a pool of {pool.scene['name']}: choose another folder.")
    scene.require(pool.scene)
    return pool


def _weights(
    scene: Scene, place: Path | None, pretrain: Callable[[], Weights] | None, *, but: Path | None = None
) -> tuple[Weights, Weights]:
    """The scene's base and heads; those of the pool at `place`, if there is one and it is not the damaged one."""
    if place and _is_other(place, but):
        other = open_pool(place)
        return other.checked(other.base_file), other.checked(other.heads_file)
    if scene.trains_base:
        assert pretrain is not None
        return pretrain(), {}
    model = scene.load(device="cpu")
    if pretrain is not None:
        model.load(pretrain().items())
        for family in FAMILIES.values():
            model.add_head(family.name, family.classes, family.templates)
    return model.weights(), model.heads


def _is_other(place: Path | None, folder: Path | None) -> bool:
    """Whether `place` holds a pool, and another one than `folder` does."""
    return bool(place and (place / RECORD).is_file() and (folder is None or place.resolve() != folder.resolve()))


def default_grid(scene: Json) -> str:
    """The grid of a scene, as a pool records it, where none is named."""
    if "forgetting" not in scene:
        return "tiny"
    return TINY_CLASSIFIER if scene["model"]["arch"] == "classifier:tiny" else "cifar-small"


def is_embedded(scene: Scene) -> bool:
    """Whether everything that the scene needs ships with the package, so that its pool may lie in the cache."""
    return scene.name.startswith("tiny:") or scene.name == TINY_CLASSIFIER


def trained_base(
    scene: Scene, device: str = "auto", on_step: ProgressFn = no_progress, *, resume: Path | None = None
) -> Weights:
    """Train the base of a standard classifier's scene from scratch, on all its training images.

    Its first weights and the order of the images come from the seed of the scene's training.

    Args:
        resume: a file that keeps the state of a training that was stopped; the caller deletes it when the base is
            saved.

    Raises:
        DivergedError: if the loss stops being a number; no state is kept to go on from.
        CheckpointError: if the state cannot be written, or is another training's.
    """
    training, images = BaseTraining.of(scene), scene.parts.seen
    model = scene.untrained(device=device, seed=training.recipe.seed)
    try:
        for step in training.steps(model, images, resume=resume):
            on_step(Progress("step", step=step.index, total=step.total, loss=step.loss))
    except DivergedError:
        if resume:
            resume.unlink(missing_ok=True)
        raise
    return model.weights("cpu")


def _with_training(scene: Scene) -> Scene:
    """The scene with the whole of its base's recipe, which the pool then records."""
    if isinstance(scene, ClassifierScene) and scene.trains_base:
        return replace(scene, training=base_recipe(scene).json())
    return scene


def pretrained_base(device: str, on_step: ProgressFn = no_progress) -> Weights:
    """Pretrain the embedded base from its seeds; about two minutes on one core."""
    clip = fresh_clip().to(pick_device(device))
    for step in pretrain_tiny(clip):
        on_step(Progress("step", step=step.index, total=step.total, loss=step.loss))
    # Rounded as the shipped weights are, so that the two can be compared.
    weights = {name: tensor.detach().cpu().half().float() for name, tensor in clip.state_dict().items()}
    return {**weights, TOKEN_EMBEDDING: token_embedding()}
