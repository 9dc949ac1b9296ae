"""Baseline: a published unlearning method with its parameters and presets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from negmerge_kit.baselines.steps import Run
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging.rule import Parameter, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from negmerge_kit.models.classifier import Classifier
    from negmerge_kit.scenes.forget_set import Parts
    from negmerge_kit.training.loop import Step
    from negmerge_kit.training.recipe import Recipe

Reads: TypeAlias = Literal["forget", "remaining"]

PAPER, TINY = "paper-cifar", "tiny-classifier"
"""The presets that every baseline has: the published search on CIFAR-10, and one for the embedded classifier."""

EMBEDDED = "this kit's: around the best rate on the embedded scene's validation images, by either way to choose."
"""Whose the second grid is."""

MOMENTUM = Parameter("momentum", "Momentum", "SGD's momentum.", 0.9, "float", low=0.0, high=0.999)
WEIGHT_DECAY = Parameter("weight_decay", "Weight decay", "SGD's weight decay, on every weight.", 5e-4, "float", low=0.0)
BATCH_SIZE = Parameter("batch_size", "Batch size", "Images a step.", 256, "int", low=2)
SGD = (MOMENTUM, WEIGHT_DECAY, BATCH_SIZE)
"""The optimiser of the reference protocol (SalUn, arXiv:2310.12508): its code's defaults."""


@dataclass(frozen=True)
class Preset:
    """A grid of rates to search, with the epochs and parameters that go with it.

    Attributes:
        rates: ascending; empty where the base recipe's rate is the only one.
        epochs: passes; None: as many as the base recipe's.
        source: whose grid it is.
        params: parameters that differ from the entry's defaults.
    """

    rates: tuple[float, ...]
    epochs: int | None
    source: str
    params: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """An unlearning method with the titles and parameters that menus and tables show.

    Attributes:
        reads: which sets it looks at; it never touches another one.
        dial: what its rate is: a learning rate, or influence's alpha.
        steps: the method itself: unlearns `run.model` in place, a step at each iteration.
    """

    name: str
    title: str
    paper: str
    explains: str
    reads: tuple[Reads, ...]
    parameters: tuple[Parameter, ...]
    presets: Mapping[str, Preset]
    steps: Callable[[Run], Iterator[Step]]
    dial: str = "learning rate"

    def preset(self, name: str) -> Preset:
        """The preset of that name; ParameterError lists the names when there is none.

        >>> from negmerge_kit.baselines import BASELINES
        >>> BASELINES["gradient-ascent"].preset("paper-cifar").epochs
        5
        """
        if name not in self.presets:
            raise ParameterError(f"{self.name} has no preset {name!r}: choose one of {', '.join(self.presets)}.")
        return self.presets[name]

    def preset_of(self, spec: str) -> Preset:
        """The preset that a comparison searches for a network, by its spec.

        >>> from negmerge_kit.baselines import BASELINES
        >>> BASELINES["gradient-ascent"].preset_of("classifier:tiny").params
        {'batch_size': 64}
        """
        return self.preset(TINY if spec == "classifier:tiny" else PAPER)

    def resolve(self, params: Mapping[str, object]) -> dict[str, Any]:
        """Every parameter with its default filled in and its value checked.

        Raises ParameterError for a name that the baseline does not have, or a value out of range.

        >>> from negmerge_kit.baselines import BASELINES
        >>> BASELINES["scrub"].resolve({"alpha": 0.1})["gamma"]
        0.99
        """
        return resolve(f"the baseline {self.name}", self.parameters, params)

    def unlearn(
        self,
        model: Classifier,
        parts: Parts,
        *,
        rate: float,
        epochs: int,
        fresh: Callable[[int], Classifier],
        recipe: Recipe,
        seed: int = 0,
        params: Mapping[str, object] | None = None,
        may_mirror: bool = False,
        resume: Path | None = None,
    ) -> Iterator[Step]:
        """Unlearn the model in place, from the base's weights that it holds; see `Run` for the arguments.

        Raises:
            DivergedError: if the weights stop being numbers; the model is then useless until weights are loaded.
            ParameterError: for a rate, epochs or a parameter out of range.
        """
        if not (isfinite(rate) and rate > 0):
            raise ParameterError(f"{self.dial} of {self.name} is {rate}: give a number above 0.")
        if epochs < 1:
            raise ParameterError(f"{self.name} is to run for {epochs} epochs: give at least 1.")
        settings = self.resolve(params or {})
        return self.steps(Run(model, parts, rate, epochs, seed, settings, fresh, recipe, may_mirror, resume))
