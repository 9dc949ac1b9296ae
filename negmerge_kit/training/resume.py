"""The state of an unfinished fine-tuning run in one file, from which it goes on to bit-identical weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.errors import CheckpointError, NegmergeError, OtherRunError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.pools.result_store import digest
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json


@dataclass
class Training:
    """State of a training run.

    Attributes:
        network: its running statistics, and those of its parameters that the optimiser holds, are part of the state.
        losses: one for each step done.
        order: the order generator's state before the present epoch.
        earlier: seconds that the steps took before the run was stopped.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    losses: list[float] = field(default_factory=list)
    order: Tensor | None = None
    earlier: float = 0.0

    @property
    def moving(self) -> dict[str, torch.nn.Parameter]:
        """The network's parameters that train, by name."""
        trained = {id(weight) for group in self.optimizer.param_groups for weight in group["params"]}
        return {name: weight for name, weight in self.network.named_parameters() if id(weight) in trained}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state by name; the optimiser's are its moments and step counts."""
        for name, parameter in self.moving.items():
            yield f"weight/{name}", parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                yield f"optimizer/{key}/{name}", value
        for name, value in self.network.named_buffers():
            yield f"buffer/{name}", value
        if self.order is not None:
            yield "order", self.order


WRITING_SHARE = 0.02
"""Saving takes at most about this share of a run: where the state is large or the disk slow, it is saved less often."""


MOST_NAMED = 3
"""Settings that a message names where two recipes differ in more."""


class StateFile:
    """Where a run keeps its state: written whole or not at all, read without unpickling.

    Args:
        path: a safetensors file, there or not.
        run: what the run is, as `describe_run` gives it: a file of another run is refused.
        recipe: the run's own, which names the run of a file that is refused.
        every: least seconds between two saves; 0 saves whenever asked.
    """

    def __init__(self, path: Path, run: str, recipe: Recipe, *, every: float) -> None:
        self._path, self._run, self._recipe, self._every = path, run, recipe, every
        self._began = self._saved = time.monotonic()
        self._took = 0.0

    def save(self, training: Training, *, last: bool) -> None:
        """Write the state if it is time or the run is at its end."""
        wait = max(self._every, self._took / WRITING_SHARE) if self._every else 0.0
        started = time.monotonic()
        if not last and started - self._saved < wait:
            return
        layout = dict(training.tensors())
        record: Json = {
            "run": self._run,
            "recipe": self._recipe.json(),
            "losses": training.losses,
            "scaler": training.scaler.state_dict(),
            "seconds": training.earlier + started - self._began,
        }
        items = ((name, tensor.cpu()) for name, tensor in layout.items())
        save_checkpoint(self._path, items, like=layout, metadata=record)
        self._saved = time.monotonic()
        self._took = self._saved - started

    @torch.no_grad()
    def restore(self, training: Training) -> None:
        """Put the stored state back, if there is one.

        Raises:
            CheckpointError: a damaged file.
            OtherRunError: one of another run.
        """
        if not self._path.exists():
            return
        stored = open_checkpoint(self._path)
        record = stored.metadata
        if record.get("run") != self._run:
            what = _difference(_recipe_in(record), self._recipe)
            raise OtherRunError(
                f"{self._path} is the state of another run ({what}): delete it to start afresh, or name another file.",
                what,
            )
        for name, parameter in training.moving.items():
            parameter.copy_(stored[f"weight/{name}"])
            prefix = "optimizer/"
            training.optimizer.state[parameter] = {
                key: _placed(stored[full], key, parameter)
                for full in stored
                if full.startswith(prefix)
                for key, _, owner in [full.removeprefix(prefix).partition("/")]
                if owner == name
            }
        for name, buffer in training.network.named_buffers():
            buffer.copy_(stored[f"buffer/{name}"])
        training.order = stored["order"].clone()
        training.losses = [float(loss) for loss in record["losses"]]
        training.scaler.load_state_dict(record["scaler"])
        training.earlier = float(record.get("seconds", 0.0))


def recipe_of(path: Path) -> Recipe | None:
    """The recipe of an unfinished run, from its state; None where it has none or is damaged."""
    try:
        return _recipe_in(open_checkpoint(path).metadata)
    except CheckpointError:
        return None


def _recipe_in(record: Json) -> Recipe | None:
    try:
        return Recipe.from_json(record["recipe"])
    except (KeyError, TypeError, NegmergeError):  # states held none before version 0.2
        return None


def _difference(theirs: Recipe | None, ours: Recipe) -> str:
    """What makes the run of a file another one than ours, as far as the file says."""
    if theirs is None or theirs == ours:
        return f"other {'recipe, ' if theirs is None else ''}network, images, base or kit version"
    wanted = asdict(ours)
    parts = [
        f"{name} {value} instead of {wanted[name]}" for name, value in asdict(theirs).items() if value != wanted[name]
    ]
    return ", ".join(parts[:MOST_NAMED] + [f"{len(parts) - MOST_NAMED} more"] * (len(parts) > MOST_NAMED))


def describe_run(model: Classifier, images: ImageSet, recipe: Recipe, mirror: bool) -> str:
    """A digest of all that decides a run's outcome: base weights, mode, images, recipe."""
    weights = hashlib.sha256()
    for name, tensor in model.tower.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest([2, weights.hexdigest(), model.mode, images.fingerprint(), recipe.json(), mirror])


def _placed(value: Tensor, key: str, parameter: Tensor) -> Any:
    """Moments go to their parameter's device, step counts to the CPU; never a view of the file."""
    return value.clone() if key == "step" else value.to(parameter.device, copy=True)
