"""How one candidate is fine-tuned, as data: the hyperparameters whose diversity NegMerge merges away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from negmerge_kit.data.augment import check_augment
from negmerge_kit.errors import ParameterError
from negmerge_kit.models.parameters import check_trainable
from negmerge_kit.safe_json import shortened
from negmerge_kit.training.grids import read_grid
from negmerge_kit.types import Json

PRECISIONS = ("float32", "bfloat16", "float16")
FLIPS = ("never", "safe", "as-published")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "multistep")
ORDERS = ("own", "shared", "fixed")
SEEDS = 2**63
"""Seeds are whole numbers from 0 to this one, which is left out; those that are derived from a seed wrap around."""

LARGEST_RATE = 3.4e38
"""Above it a rate is infinite in float32, in which weights move."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one training run: fine-tuning on the forget set, or a classifier from scratch.

    The published recipe is lr 1e-5, weight decay 0.1, batch 128, 500 warm-up steps, clip norm 1.0 (arXiv:2410.05583,
    appendix); the tiny scene learns with larger rates and shorter runs. Everything here changes the candidate, and so
    its id; what only changes how fast it is computed is in `Execution`.

    Attributes:
        lr: peak learning rate.
        epochs: passes over the forget images.
        weight_decay: on every trained weight as in the authors' code; AdamW's is decoupled, SGD's part of the gradient.
        batch_size: images a step.
        warmup: steps of linear warm-up.
        label_smoothing: share of the target spread over the other classes.
        clip_norm: largest gradient norm; 0 clips nothing.
        seed: how each image is augmented, what the network draws itself, such as dropout, the first weights of a
            network that is trained from nothing and, where the order is the candidate's own, the order of the images.
        trainable: which parameters move: "all", "no-attention" (the authors' code), "last-K", "norms".
        augment: "none"; timm's RandAugment after a random crop, e.g. "rand-m3-n2-mstd0.5"; or "crop-4", a crop of the
            image's size after 4 pixels of black padding, on the device.
        flips: whether augmented images are mirrored: "safe" where the data set allows it, "never", or "as-published"
            (always, digits and signs too).
        precision: "float32", or the autocast type "bfloat16" or "float16"; weights and optimiser stay in float32.
        warmup_share: largest share of the run that warm-up may take.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        schedule: "cosine" to zero, or "multistep": a tenth of the rate after each of 50 % and 75 % of the steps.
        order: of the images: "own", permutations from the recipe's seed, new in each epoch; "shared", new in each epoch
            and the same in every candidate; "fixed", one permutation for every candidate and every epoch, as the
            authors' code trains (a DistributedSampler without `set_epoch`). It decides how far signs agree.

    Raises:
        ParameterError: for a value of another type or outside its range; the message names every one.

    >>> Recipe(lr=1e-3, epochs=4).label
    'lr 1e-3 · 4 epochs · wd 0.1'
    >>> Recipe(lr=1e-5, epochs=70, augment="rand-m3-n2-mstd0.5", trainable="no-attention").label
    'lr 1e-5 · 70 epochs · wd 0.1 · rand-m3-n2 · no-attention'
    """

    lr: float
    epochs: int
    weight_decay: float = 0.1
    batch_size: int = 64
    warmup: int = 20
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0
    trainable: str = "all"
    augment: str = "none"
    flips: str = "safe"
    precision: str = "float32"
    warmup_share: float = 0.1
    optimizer: str = "adamw"
    schedule: str = "cosine"
    order: str = "own"

    def __post_init__(self) -> None:
        """Validate the values; the message names every fault at once."""
        kinds = {"float": (int, float), "int": (int,), "str": (str,)}
        for item in fields(self):
            if item.type == "float" and type(getattr(self, item.name)) is int:  # 1 and 1.0 are one recipe, one id
                object.__setattr__(self, item.name, float(getattr(self, item.name)))
        odd = [
            item.name
            for item in fields(self)
            if isinstance(getattr(self, item.name), bool)
            or not isinstance(getattr(self, item.name), kinds[str(item.type)])
        ]
        if odd:
            raise ParameterError(
                "this recipe cannot be read: "
                + ", ".join(f"{name} = {shortened(getattr(self, name))}" for name in odd)
                + " is of the wrong type."
            )
        rules = {
            "lr": 0 < self.lr <= LARGEST_RATE,
            "epochs": self.epochs >= 1,
            "weight_decay": isfinite(self.weight_decay) and self.weight_decay >= 0,
            "batch_size": self.batch_size >= 1,
            "warmup": self.warmup >= 0,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "clip_norm": self.clip_norm >= 0,
            "seed": 0 <= self.seed < SEEDS,
            "flips": self.flips in FLIPS,
            "precision": self.precision in PRECISIONS,
            "warmup_share": 0 <= self.warmup_share <= 1,
            "optimizer": self.optimizer in OPTIMIZERS,
            "schedule": self.schedule in SCHEDULES,
            "order": self.order in ORDERS,
        }
        if wrong := [f"{name} = {getattr(self, name)}" for name, fine in rules.items() if not fine]:
            raise ParameterError(f"this recipe cannot be trained: {', '.join(wrong)} is out of range.")
        check_augment(self.augment)
        check_trainable(self.trainable)

    @property
    def label(self) -> str:
        """The recipe in a line, as tables and figures show it."""
        mantissa, exponent = f"{self.lr:.3e}".split("e")
        epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        parts = [f"lr {float(mantissa):g}e{int(exponent)}", epochs, f"wd {self.weight_decay:g}"]
        if self.label_smoothing:
            parts.append(f"smoothing {self.label_smoothing:g}")
        if self.augment != "none":
            parts.append(self.augment.partition("-mstd")[0])
        shown = ("trainable", "optimizer", "schedule", "precision")
        parts += [getattr(self, name) for name in shown if getattr(self, name) != _LATER[name]]
        parts += [f"{self.order} order"] * (self.order != "own")
        return " · ".join(parts)

    def mirrors(self, may_mirror: bool) -> bool:
        """Whether augmented images are mirrored, where a mirrored image of the data set may still show its class."""
        return self.flips == "as-published" or (self.flips == "safe" and may_mirror)

    def json(self) -> Json:
        """Plain values for pool.json; the same values give the same candidate id.

        Settings added since the first pools were written are included where they differ from their defaults, which will
        therefore never change: old candidates keep their ids.
        """
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        """The recipe back from pool.json.

        Raises:
            ParameterError: for unknown or missing names; the file was written by another version.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ParameterError(
                f"recipe has unknown settings {unknown}: choose among {', '.join(item.name for item in fields(cls))}."
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ParameterError(f"recipe is incomplete ({error}): lr and epochs are required.") from None


def recipe_line(recipe: Json) -> str:
    """A pool's recipe in a line; a candidate that was fine-tuned elsewhere is named by its file.

    >>> recipe_line({"lr": 1e-3, "epochs": 4}), recipe_line({"file": "cars.safetensors"})
    ('lr 1e-3 · 4 epochs · wd 0.1', 'cars.safetensors')
    """
    return Recipe.from_json(recipe).label if "lr" in recipe else str(recipe.get("file", "fine-tuned elsewhere"))


_LATER = {
    item.name: item.default
    for item in fields(Recipe)
    if item.name in ("trainable", "augment", "flips", "precision", "warmup_share", "optimizer", "schedule", "order")
}


def grid(
    name_or_file: str | Path, *, data: str | None = None, images: int | None = None, mode: str | None = None
) -> tuple[Recipe, ...]:
    """The recipes of a preset, or of a TOML file in the form that `grid_files` describes.

    Args:
        name_or_file: "tiny", "tiny-even", "paper-randaugment", "paper-randaugment-linear", "lr-wd-epochs",
            "tiny-classifier", "paper-cifar", "paper-cifar-vgg16", "cifar-swin", "cifar-small", or a path.
        data: name of the forget set: the published presets train each of theirs for as many epochs as the authors.
        images: its number of training images: any other data set trains for as many steps.
        mode: of the models that will be trained, "standard" or "linear"; None: not known yet.

    Raises:
        ParameterError: if there is no such grid, it is for models of another mode, or it holds something that cannot
            be trained, or one recipe twice.

    >>> len(grid("tiny")), len(grid("paper-randaugment")), grid("lr-wd-epochs", data="cars")[1].epochs
    (8, 30, 35)
    >>> grid("paper-randaugment", data="folder:faces", images=1000)[0].epochs
    500
    """
    recipes = []
    for k, settings in enumerate(read_grid(name_or_file, data=data, images=images, mode=mode), start=1):
        try:
            recipes.append(Recipe.from_json(settings))
        except ParameterError as error:
            raise ParameterError(f"candidate {k} of grid '{name_or_file}': {error}") from None
    if len(set(recipes)) < len(recipes):
        twice = next(recipe for recipe in recipes if recipes.count(recipe) > 1)
        raise ParameterError(
            f"grid '{name_or_file}' holds {twice.label} twice with seed {twice.seed}: leave seed out, "
            "and every candidate gets its own."
        )
    return tuple(recipes)


def grid_of(scene: Json, name: str | Path, precision: str | None = None) -> tuple[Recipe, ...]:
    """The recipes of a grid as they are meant for the forget set of a scene, as a pool describes it.

    Args:
        precision: what the image tower computes in; None for the grid's.

    Raises:
        ParameterError: as `grid`.
    """
    trained = next(images for images in scene["sets"] if images["split"] == "train")
    recipes = grid(name, data=trained["name"], images=trained["n"], mode=scene["mode"])
    return tuple(replace(recipe, precision=precision) for recipe in recipes) if precision else recipes


def reseeded(recipes: Sequence[Recipe], seed: int) -> tuple[Recipe, ...]:
    """A grid's recipes as another seed has them; 0 leaves them. Seeds share no candidate's, if the grid names none.

    >>> [recipe.seed for recipe in reseeded(grid("tiny"), 1)]
    [8, 9, 10, 11, 12, 13, 14, 15]
    """
    return tuple(replace(recipe, seed=(recipe.seed + seed * len(recipes)) % SEEDS) for recipe in recipes)
