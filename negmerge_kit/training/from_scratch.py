"""A standard classifier trained from its first step: the base, and the model retrained without the images to forget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from negmerge_kit.errors import ParameterError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.models.model_spec import CLASSIFIER, find_model
from negmerge_kit.scenes.scene import Scene
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.loop import Step
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.seeding import derived_seed
from negmerge_kit.types import Json

PUBLISHED = Recipe(
    lr=0.1,
    epochs=182,
    weight_decay=5e-4,
    batch_size=256,
    warmup=0,
    clip_norm=0.0,
    augment="crop-4",
    optimizer="sgd",
    schedule="multistep",
)
"""The original model of the published protocol (SalUn, https://arxiv.org/abs/2310.12508): 182 epochs, a tenth of the
rate after 91 and 136 of them, which are 50 % and 75 %."""

BASES: dict[str, Recipe] = {
    "tiny": Recipe(lr=0.05, epochs=15, weight_decay=5e-4, batch_size=60, warmup=20, clip_norm=0.0, optimizer="sgd"),
    "resnet20": replace(PUBLISHED, epochs=164, batch_size=128, weight_decay=1e-4),
    "resnet9": replace(PUBLISHED, epochs=24, batch_size=128, schedule="cosine"),
    "resnet18": PUBLISHED,
    "vgg16-bn": PUBLISHED,
    "swin-t": Recipe(
        lr=5e-4, epochs=100, weight_decay=0.05, batch_size=128, warmup=2000, clip_norm=1.0, augment="crop-4"
    ),
}
"""How each network is trained where a scene does not say; `timm/NAME` as published, ResNet-20 as its authors
did; ResNet-9's and Swin-T's are the kit's own."""


def base_recipe(scene: Scene) -> Recipe:
    """How the base of a standard classifier's scene is trained: the scene's own settings over its network's.

    Raises:
        ParameterError: settings that a recipe does not have, or that cannot be trained.

    >>> from negmerge_kit.scenes.find import open_scene
    >>> base_recipe(open_scene("tiny-classifier")).optimizer
    'sgd'
    """
    name = find_model(scene.model).arch.removeprefix(CLASSIFIER)
    settings: dict[str, Any] = BASES.get(name, PUBLISHED).json() | (getattr(scene, "training", None) or {})
    try:
        return Recipe.from_json(settings)
    except ParameterError as error:
        raise ParameterError(f"training of scene {scene.name}: {error}") from None


@dataclass(frozen=True)
class BaseTraining:
    """How a scene's base is trained; the retrained model and the shadow models are trained by the same object.

    Attributes:
        recipe: as `base_recipe` gives it; another seed is other first weights and another order of the images.
        may_mirror: whether a mirrored image still shows its class (`DataSource.flips`).
    """

    recipe: Recipe
    may_mirror: bool

    @classmethod
    def of(cls, scene: Scene) -> BaseTraining:
        """As the scene says, or its network's own.

        Raises:
            ParameterError: as `base_recipe`.
        """
        return cls(base_recipe(scene), scene.sources[0].flips)

    def but(self, **changed: Any) -> BaseTraining:
        """The same with some settings of the recipe changed, such as its seed."""
        return replace(self, recipe=replace(self.recipe, **changed))

    def retrained(self, seed: int) -> BaseTraining:
        """The same for the retrained model of a seed: with a derived seed that no base and no shadow model has.

        >>> base = BaseTraining(BASES["tiny"], may_mirror=False)
        >>> base.recipe.seed, base.retrained(0).recipe.seed != 0
        (0, True)
        """
        return self.but(seed=derived_seed(seed, "retrained model"))

    def json(self) -> Json:
        """Plain values, for the keys of what is kept."""
        return {"recipe": self.recipe.json(), "may_mirror": self.may_mirror}

    def steps(
        self, model: Classifier, images: ImageSet, *, execution: Execution | None = None, resume: Path | None = None
    ) -> Iterator[Step]:
        """Train an untrained classifier in place on these images and no others, a step at each iteration.

        Args:
            model: as `Scene.untrained` gives it from the recipe's seed.
            images: `Parts.seen` makes the base, `Parts.remaining` the retrained model.
            resume: a file that keeps the run's state, as `finetune` takes it; the caller deletes it when the weights
                are saved.

        Raises:
            DivergedError, ParameterError, CheckpointError: as `finetune`.
        """
        return finetune(model, images, self.recipe, may_mirror=self.may_mirror, execution=execution, resume=resume)
