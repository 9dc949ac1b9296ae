"""How one candidate is fine-tuned, as data: the hyperparameters whose diversity NegMerge merges away."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from negmerge_kit.errors import ParameterError
from negmerge_kit.types import Json


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one fine-tuning run on the forget set (AdamW, warm-up, cosine to zero).

    The published recipe is lr 1e-5, weight decay 0.1, batch 128, 500 warm-up steps, clip norm 1.0
    (arXiv:2410.05583, appendix); the tiny scene learns with larger rates and shorter runs.

    Attributes:
        lr: peak learning rate.
        epochs: passes over the forget images.
        weight_decay: AdamW's decoupled decay, on every trained weight as in the authors' code.
        batch_size: images a step.
        warmup: steps of linear warm-up; at most a tenth of the run is used.
        label_smoothing: share of the target spread over the other classes.
        clip_norm: largest gradient norm.
        seed: order of the images.

    Raises:
        ParameterError: for a value outside its range; the message names it.

    >>> Recipe(lr=1e-3, epochs=4).label
    'lr 1e-3 · 4 epochs · wd 0.1'
    """

    lr: float
    epochs: int
    weight_decay: float = 0.1
    batch_size: int = 64
    warmup: int = 20
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, naming every fault at once."""
        rules = {
            "lr": isfinite(self.lr) and self.lr > 0,
            "epochs": self.epochs >= 1,
            "weight_decay": isfinite(self.weight_decay) and self.weight_decay >= 0,
            "batch_size": self.batch_size >= 1,
            "warmup": self.warmup >= 0,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "clip_norm": self.clip_norm > 0,
        }
        if wrong := [f"{name} = {getattr(self, name)}" for name, fine in rules.items() if not fine]:
            raise ParameterError(f"this recipe cannot be trained: {', '.join(wrong)} is out of range.")

    @property
    def label(self) -> str:
        """The recipe in a line, as tables and figures show it."""
        lr = f"{self.lr:.0e}".replace("e-0", "e-")
        text = f"lr {lr} · {self.epochs} epochs · wd {self.weight_decay:g}"
        return f"{text} · smoothing {self.label_smoothing:g}" if self.label_smoothing else text

    def json(self) -> Json:
        """Plain values for pool.json; the same values give the same candidate id."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        """The recipe back from pool.json.

        Raises:
            ParameterError: for unknown or missing names; the file was written by another version.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ParameterError(
                f"recipe has unknown settings {unknown}: it was written by another version of the kit."
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ParameterError(f"recipe is incomplete ({error}): lr and epochs are required.") from None


GRIDS: dict[str, tuple[Recipe, ...]] = {
    # Eight runs on the embedded scene that all learn; like the authors' runs, no two see the images in the same order.
    "tiny": tuple(
        Recipe(lr=lr, epochs=epochs, weight_decay=decay, seed=seed)
        for seed, (lr, epochs, decay) in enumerate(
            (
                (5e-4, 4, 0.1),
                (5e-4, 8, 0.1),
                (1e-3, 4, 0.1),
                (1e-3, 8, 0.1),
                (2e-3, 4, 0.1),
                (2e-3, 8, 0.1),
                (1e-3, 6, 0.01),
                (1e-3, 6, 0.5),
            )
        )
    ),
}
"""Named grids of recipes; `negmerge pool build tiny --grid NAME` runs one."""


def grid(name: str) -> tuple[Recipe, ...]:
    """The recipes of a named grid.

    Raises:
        ParameterError: if there is no grid of that name; the message lists the names.

    >>> len(grid("tiny"))
    8
    """
    if name not in GRIDS:
        raise ParameterError(f"there is no grid '{name}': choose among {', '.join(GRIDS)}.")
    return GRIDS[name]
