"""What the Fine-tune page has begun: a folder for each scene, from which it goes on after the app was ended or killed.

HOME/app-<name>-<digest>/app.json     the scene and the recipes that its pool should have
HOME/app-<name>-<digest>/images/…     what was uploaded, once it was checked
HOME/app-<name>-<digest>/pool.json …  the pool
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from negmerge_kit.app.uploads import RESERVED, Taken, shown
from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.data.embedded import FAMILIES
from negmerge_kit.data.folder import FolderSource
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.pools.pool import RECORD, open_pool
from negmerge_kit.pools.pool_writer import candidate_id
from negmerge_kit.pools.result_store import digest
from negmerge_kit.safe_json import read_json
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.scenes.scene import Scene
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

PLAN, PREFIX, SCHEMA, BASE = "app.json", "app-", 1, "base.safetensors"
MOST_PLANS = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnBase:
    """A visitor's base, checked, in place of the embedded one: which architecture it is, and where it arrived."""

    arch: str
    path: Path
    sha256: str

    def model(self, folder: Path) -> Json:
        """The model spec of the scene whose pool lies in `folder`: the pool's own base."""
        return {"arch": self.arch, "pretrained": str(folder / BASE)}

    def copy(self, folder: Path) -> None:
        """Put it where its plan expects it, whole or not at all."""
        if not (folder / BASE).is_file():
            with self.path.open("rb") as source, atomic_file(folder / BASE) as target:
                shutil.copyfileobj(source, target, 1 << 20)


@dataclass(frozen=True)
class Plan:
    """A scene that candidates are fine-tuned for, and their recipes; `images` is how many they train on."""

    folder: Path
    scene: Scene
    images: int
    recipes: tuple[Recipe, ...] = ()

    @property
    def id(self) -> str:
        """Its folder's name, which is the pool's id, too."""
        return self.folder.name

    @property
    def done(self) -> int:
        """How many of its recipes the pool has a candidate of."""
        return len(self.recipes) - len(self.lacking(self.recipes))

    def lacking(self, recipes: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
        """Those of the recipes that the pool has no candidate of."""
        if not (self.folder / RECORD).is_file():
            return recipes
        pool = open_pool(self.folder)
        return tuple(recipe for recipe in recipes if candidate_id(pool, recipe.json()) not in pool.ids)

    @property
    def candidates(self) -> int:
        """How many candidates the pool has, those that were fine-tuned elsewhere, too."""
        return len(open_pool(self.folder).ids) if (self.folder / RECORD).is_file() else 0

    def with_recipes(self, recipes: tuple[Recipe, ...]) -> Plan:
        """The plan with recipes added to those that it has."""
        new = tuple(recipe for recipe in recipes if recipe not in self.recipes)
        return replace(self, recipes=(*self.recipes, *new))

    def write(self) -> None:
        """Put it into its folder, whole or not at all."""
        values = {
            "schema": SCHEMA,
            "scene": {
                "name": self.scene.name,
                "model": self.scene.model,
                "forget": self.scene.forget,
                "retain": list(self.scene.retain),
                **self.scene.reading,
            },
            "images": self.images,
            "recipes": [recipe.json() for recipe in self.recipes],
        }
        with atomic_file(self.folder / PLAN) as file:
            file.write(json.dumps(values, indent=1).encode())


class Plans:
    """All that lies under one folder of the user's cache; visitors name plans by id only."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def ids(self) -> list[str]:
        """Those that there are, the last touched first."""
        files = sorted(self.home.glob(f"{PREFIX}*/{PLAN}"), key=lambda file: -file.stat().st_mtime)
        return [file.parent.name for file in files[:MOST_PLANS]]

    def read(self, id: object) -> Plan:
        """The plan of that id.

        Raises:
            ParameterError: if there is none, or its file cannot be read.
        """
        if not isinstance(id, str) or id not in self.ids():
            raise ParameterError(f"there is nothing called {shown(id)} here: choose what should be forgotten first.")
        folder = self.home / id
        try:
            values: Json = read_json((folder / PLAN), dict)
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}")
            scene = ZeroShotScene(**{**values["scene"], "retain": tuple(values["scene"]["retain"])})
            return Plan(folder, scene, int(values["images"]), tuple(map(Recipe.from_json, values["recipes"])))
        except (OSError, ValueError, KeyError, TypeError, NegmergeError) as error:
            raise ParameterError(
                f"{folder / PLAN} cannot be read ({str(error)[:100]}): delete the folder and begin again."
            ) from None

    def of_family(self, family: object, base: OwnBase | None = None) -> Plan:
        """The plan that forgets one embedded family and keeps the others; an earlier one is found again.

        Raises:
            ParameterError: for a family that does not exist.
        """
        if not isinstance(family, str) or family not in FAMILIES:
            raise ParameterError(f"there is no family {shown(family)}: choose among {', '.join(FAMILIES)}.")
        scene = open_scene(f"tiny:{family}")
        folder = self._folder(family, [scene.name, *_identity(base)])
        if base is not None:
            scene = replace(scene, name=f"{family} from {base.arch}", model=base.model(folder))
        return self._begun(Plan(folder, scene, len(scene.sources[0].images("train", image_size=32))), base)

    def of_images(
        self, taken: Taken, name: object, keep: object, base: OwnBase | None = None, *, as_viewed: object = True
    ) -> Plan:
        """The plan that forgets uploaded images, which move to where they stay; the same images are found again.

        `as_viewed` turns what EXIF says is held sideways and lays transparent pixels onto white, where there are any:
        unlike in a folder for research, nobody compares these images with torchvision's reading of them.

        Raises:
            ParameterError: for a name or families that cannot be.
        """
        called, kept = checked_name(name), checked_families(keep)
        reading: dict[str, Any] = {"orientation": "exif"} if as_viewed and taken.turned else {}
        reading |= {"transparency": "white"} if as_viewed and taken.transparent else {}
        folder = self._folder(called, [taken.digest, called, kept, *_identity(base), *reading])
        images = folder / "images" / called
        if not images.is_dir():
            images.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            arriving = Path(tempfile.mkdtemp(prefix=".arriving-", dir=images.parent))
            try:
                shutil.copytree(taken.folder, arriving / called)
                (arriving / called).rename(images)
            finally:
                shutil.rmtree(arriving, ignore_errors=True)
        scene = ZeroShotScene(
            called, base.model(folder) if base else "tiny", f"folder:{images}", tuple(kept), **reading
        )
        return self._begun(Plan(folder, scene, len(FolderSource(images).rows("train")[1])), base)

    def unfinished(self) -> list[Plan]:
        """Plans that an ended app has left with candidates to go on with."""
        found = []
        for id in self.ids():
            try:
                plan = self.read(id)
                if plan.done < len(plan.recipes):
                    found.append(plan)
            except NegmergeError as error:
                log.warning("%s", error)
        return found

    def _folder(self, name: str, made_from: list[Any]) -> Path:
        return self.home / f"{PREFIX}{name}-{digest(made_from)[:8]}"

    def _begun(self, plan: Plan, base: OwnBase | None) -> Plan:
        if (plan.folder / PLAN).is_file():
            return self.read(plan.id)
        plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if base is not None:
            base.copy(plan.folder)
        plan.write()
        return plan


def _identity(base: OwnBase | None) -> list[str]:
    return [base.arch, base.sha256] if base else []


def checked_name(name: object) -> str:
    """A visitor's name for a set of images as a folder and a head may be called.

    Raises:
        ParameterError: for one that cannot be.

    >>> checked_name(" My cats ")
    'my-cats'
    """
    called = re.sub(r"[\s_]+", "-", name.strip().lower()) if isinstance(name, str) and len(name) < 200 else ""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", called) or called in RESERVED:
        raise ParameterError(f"the name {shown(name)} cannot be used: give up to 31 letters, digits and hyphens.")
    if called in FAMILIES:
        raise ParameterError(f"{called} is an embedded family’s name: give your images another one.")
    return called


def checked_families(keep: object) -> list[str]:
    """The families to keep, in the kit's order.

    Raises:
        ParameterError: if there are none, or one does not exist.
    """
    if not isinstance(keep, list) or not keep or not all(isinstance(name, str) and name in FAMILIES for name in keep):
        raise ParameterError(f"choose at least one family to keep: {', '.join(FAMILIES)}.")
    return [name for name in FAMILIES if name in keep]
