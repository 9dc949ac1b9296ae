"""A pool loaded on a device: merge once, slide the scale, score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from math import inf
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from negmerge_kit.errors import ParameterError, check_scale
from negmerge_kit.merging import LayerAgreement, find_rule, subtract
from negmerge_kit.models.classifier import BATCH, Classifier
from negmerge_kit.pools.pool import Candidate, Pool
from negmerge_kit.progress import ProgressFn, no_progress
from negmerge_kit.scenes.find import scene_from_json
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring.scale_search import KEEP, Keep, Method, Point, Scales, ScaleSearch
from negmerge_kit.types import Items
from negmerge_kit.unlearning.answer_memory import AnswerMemory
from negmerge_kit.unlearning.delta_cache import Choice, DeltaCache, Merged, empty_cache
from negmerge_kit.unlearning.evaluation import Scores
from negmerge_kit.unlearning.fair_lock import FairLock
from negmerge_kit.unlearning.live_model import BASE, LiveModel, ModelState, RunningStatistics, largest_scale
from negmerge_kit.unlearning.scorer import Scorer

Memory: TypeAlias = Literal["disk", "read", "none"]
"""Where a workbench finds earlier answers, and whether it keeps new ones on disk."""


class Workbench:
    """A pool on a device, with one resident model whose weights are updated in place.

    Merging is cached by `Choice`; moving the scale is one in-place update and one pass over resident images. Tensors
    that no candidate moved are held once. All methods are thread-safe: callers take turns in order of arrival, and
    work inside `background_priority` lets others in between two forward passes.

    Args:
        memory: "disk": answers to images are found in the pool's folder and kept there; "read": found there, new ones
            kept in this process only; "none": in this process only.

    Attributes:
        scorer: how many images are right, for all that is written or reported.
        sliders: the same for sliders, whose deltas may be rounded (see `merged`); it remembers in this process only.

    Raises:
        PoolError: if a file of the pool is missing or changed.
        SceneError: if the images that this version draws are not those the pool was made with.
    """

    def __init__(self, pool: Pool, *, device: str = "auto", memory: Memory = "disk") -> None:
        self._turn = FairLock()
        self.pool = pool
        self.scene = scene_from_json(pool.scene)
        self.scene.require(pool.scene)
        self.model: Classifier = self.scene.load(device=device, heads=pool.checked(pool.heads_file))
        self.model.load(pool.checked(pool.base_file).items())
        self.model.anchor()
        self._statistics = RunningStatistics(self.model, self.scene)
        # The model's own tensors are overwritten in place; the base stays apart.
        self._deltas = DeltaCache(self.model.weights())
        self._splits: dict[str, Splits] = {}
        self._live = LiveModel(self.model, self._deltas, self._statistics)
        self._images_stay = False
        kept = AnswerMemory(None if memory == "none" else pool, self.model.device, write=memory == "disk")
        self.scorer, self.sliders = Scorer(self, kept), Scorer(_Sliders(self))

    @property
    def given_up(self) -> str:
        """What was given up because the device ran out of memory, as a sentence; empty where nothing was."""
        given_up = [self._deltas.given_up]
        if self._images_stay:
            given_up.append("images stay in the machine's memory")
        if self.model.batch < BATCH[self.model.device.type]:
            given_up.append(f"{self.model.batch} images are scored at a time")
        return "; ".join(part for part in given_up if part)

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies for running statistics that the model and its scene allow; one where it has none."""
        return self._statistics.policies

    # --- choosing -----------------------------------------------------------------------------

    def choose(
        self,
        candidates: Iterable[str] | None = None,
        rule: str = "negmerge",
        params: Mapping[str, Any] | None = None,
        *,
        buffers: str = "keep",
    ) -> Choice:
        """Check a selection and fill in the rule's defaults; None means every candidate, a copy of another left out.

        Raises:
            ParameterError: if nothing is selected, a candidate or its copy is named twice, the rule or a parameter is
                unknown, or the model or its scene does not allow the policy for running statistics.
            PoolError: for an id that the pool does not hold.
        """
        ids = tuple(self.pool.ids if candidates is None else candidates)
        if not ids:
            raise ParameterError("no candidate is selected: choose at least one fine-tuned model.")
        if len(set(ids)) != len(ids):
            raise ParameterError("a candidate is named twice: name each one once.")
        for id in ids:
            self.pool.entry(id)
        # The pool's order, whatever order the ids came in: sums are taken in one order only.
        ordered = tuple(id for id in self.pool.ids if id in ids)
        if candidates is None:
            ordered = self.pool.distinct
        elif copy := next((pair for pair in self.pool.copies if {*pair} <= {*ids}), None):
            raise ParameterError(
                f"candidates {copy[0]} and {copy[1]} hold the same weights, byte for byte: they would "
                "be two votes of one model; leave one out."
            )
        settings = tuple(sorted(find_rule(rule).resolve(params or {}).items()))
        files = tuple(self.pool.entry(id).sha256 for id in ordered)
        return Choice(ordered, rule, settings, self._statistics.check(buffers), files)

    def refresh(self) -> Pool:
        """See the candidates that have been added to the pool since."""
        with self._turn:
            self.pool = self.pool.reload()
            return self.pool

    def hold(self, entry: Candidate) -> None:
        """Add a candidate whose file is written but not yet recorded in pool.json; idempotent."""
        with self._turn:
            entries = {other.id: other for other in self.pool.entries} | {entry.id: entry}
            self.pool = replace(self.pool, entries=tuple(entries.values()))

    def fresh_model(self) -> Classifier:
        """Another copy of the base on the same device, for training."""
        model = self.scene.load(device=str(self.model.device), heads=self.model.heads)
        model.load(self._deltas.base.items())
        model.anchor()
        return model

    # --- merging ------------------------------------------------------------------------------

    def merged(self, choice: Choice, *, exact: bool = True) -> Merged:
        """The choice's delta, merged once and then cached; on the device, unless it ran out of memory.

        One that need not be `exact` may be rounded, where candidates fit on the device in bfloat16 only: that is for
        sliders, and for nothing that is written or reported.

        Raises:
            PoolError: if a candidate's file changed on disk.
        """
        with self._turn:
            return self._deltas.merged(self.pool, choice, exact=exact)

    def largest_scale(self, choice: Choice) -> float:
        """The scale from which on nothing can be scored: a merged running variance would be negative; else infinite."""
        return largest_scale(self._deltas.base, self.merged(choice).delta) if choice.buffers == "merge" else inf

    def agreement(
        self, candidates: Iterable[str] | None = None, *, report: ProgressFn = no_progress
    ) -> list[LayerAgreement]:
        """Sign agreement by tensor, with fused attention shown as q, k and v, over what moved."""
        with self._turn:
            return self._deltas.agreement(self.pool, self.choose(candidates).candidates, report=report)

    def unlearned(self, choice: Choice, scale: float) -> Items:
        """The base's whole key set with scale times the merged delta subtracted, on the CPU.

        Recalibrated running statistics are the ones that were scored; integer entries stay the base's.
        """
        if choice.buffers == "recalibrate" and scale:
            with self.at(choice, scale):
                yield from self._statistics.written(self._deltas.base)
            return
        delta, scale = self.merged(choice).delta, check_scale(scale)
        for name, tensor in self._deltas.base.items():
            yield name, (subtract(tensor.to(delta[name].device), delta[name], scale) if name in delta else tensor).cpu()

    # --- scoring ------------------------------------------------------------------------------

    def images(self, split: str) -> Splits:
        """The scene's images of a split, resident on the device."""
        if split not in self._splits:
            self._splits[split] = self._resident(self.scene.images(split))
        return self._splits[split]

    def score(self, choice: Choice | None, scale: float, split: str = "val") -> Scores:
        """Forget and retain accuracy after subtracting scale times the merged delta; no choice is the base.

        Split `live` is the fixed validation subset of the sliders, scored with a delta that may be rounded
        (see `merged`).

        Raises:
            ParameterError: if the scale is not a finite number of 0 or more.
        """
        return (self.sliders if split == "live" else self.scorer).scores(choice, scale, split)

    def base_scores(self, split: str = "val") -> Scores:
        """The base's own scores on a split."""
        return self.score(None, 0.0, split)

    def search(
        self,
        choice: Choice,
        *,
        keep: Keep = KEEP,
        scales: Scales = None,
        method: Method = "early",
        split: str = "val",
        on_point: Callable[[Point], None] | None = None,
    ) -> ScaleSearch:
        """The scale that forgets most on validation with retention at the floor (see `search_scale`).

        Without `scales` the search goes on beyond the paper's grid until retention falls to the floor. No image is
        asked that was answered before, in a comparison too, unless the workbench remembers nothing.
        """
        with self.scorer.charge():
            self.merged(choice)  # a file that changed is refused even where every answer is known
            return self.scorer.search(
                choice,
                keep=keep,
                scales=scales,
                method=method,
                split=split,
                limit=self.largest_scale(choice),
                on_point=on_point,
            )

    def fixed(self, choice: Choice, scale: float, *, keep: Keep = KEEP, split: str = "val") -> ScaleSearch:
        """The outcome of "searching" one scale that was chosen by hand, whatever it keeps."""
        base, scores = self.base_scores(split), self.score(choice, scale, split)
        point = scores.point(scale)
        return ScaleSearch(keep, base.point(0.0), point, (point,))

    def look(self, choice: Choice | None, scale: float) -> tuple[Scores, list[Tensor]]:
        """Scores on the `live` images, and the class indices [n] given to each set, the forget set's first.

        No choice asks the base; the delta may be rounded (see `merged`).
        """
        classes = self.sliders.classes(choice, scale, "live")
        return self.sliders.scores(choice, scale, "live"), classes

    # --- the resident model -------------------------------------------------------------------

    @contextmanager
    def at(self, choice: Choice | None, scale: float, *, exact: bool = True) -> Iterator[Classifier]:
        """The model with scale times the merged delta subtracted, for the length of the block; None is the base.

        Raises:
            ParameterError: if the scale is not a finite number of 0 or more.
        """
        check_scale(scale)
        with self._turn:
            self._live.move(self.pool, ModelState(choice, scale, exact))
            yield self.model

    def yield_to_foreground(self) -> None:
        """Between two passes of background work: let others use the model, then load the weights again."""
        state = self._live.state
        if self._turn.yield_to_foreground():
            self._live.move(self.pool, state or BASE)

    def _resident(self, splits: Splits) -> Splits:
        """The images on the device, or where they are if they do not fit: each pass takes its own along."""
        try:
            return splits.to(self.model.device)
        except torch.OutOfMemoryError:
            self._images_stay = True
        empty_cache(self.model.device)
        return splits


class _Sliders:
    """A workbench as sliders see it: deltas may be rounded where candidates are held in bfloat16."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self.images, self.yield_to_foreground = bench.images, bench.yield_to_foreground

    def at(self, choice: Choice | None, scale: float) -> AbstractContextManager[Classifier]:
        return self._bench.at(choice, scale, exact=False)
