"""Evaluate models of one classifier's pool: partition, retrained model and shadow models are loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from negmerge_kit.classifier_eval.metric_set import MetricSet, measure
from negmerge_kit.classifier_eval.retrained_model import (
    ANY_RETRAINED,
    RetrainedModel,
    RetrainedSpec,
    find_retrained,
    require_retrained,
)
from negmerge_kit.classifier_eval.shadow_models import Shadows, train_shadows
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.pools.result_store import made_with
from negmerge_kit.progress import ProgressFn, no_progress
from negmerge_kit.scoring.accuracy import Accuracy, pool_accuracies
from negmerge_kit.scoring.early_stopping import Point
from negmerge_kit.scoring.gap import GAP_OVER, average_gap, nearest_scale
from negmerge_kit.scoring.scale_search import Scales, ScaleSearch
from negmerge_kit.training.from_scratch import BaseTraining
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench


class ClassifierEvaluator:
    """Computes the same metrics for every model of one scene; what they need is made once.

    Args:
        bench: a pool of a standard classifier.
        shadows: how many shadow models; 0 leaves the likelihood ratio attack out.
        seed: of the shadow models.
        wanted: which retrained model of the pool is the reference on test.
        chooser: which one chooses scales and rates, on validation; by default the one that judges.

    Attributes:
        evaluations: scales that `nearest` looked at; `images` were answered for them.

    Raises:
        SceneError: for a scene whose data are not parted.
    """

    def __init__(
        self,
        bench: Workbench,
        *,
        shadows: int = 0,
        seed: int = 0,
        wanted: RetrainedSpec = ANY_RETRAINED,
        chooser: RetrainedSpec | None = None,
        on_shadow: ProgressFn = no_progress,
    ) -> None:
        self.bench = bench
        self.parts = bench.scene.parts
        self._count, self._seed, self._on_shadow = shadows, seed, on_shadow
        self.wanted, self.chooser = wanted, chooser or wanted
        self._retrained: dict[tuple[str, str], MetricSet] = {}
        self.evaluations = self.images = 0

    @cached_property
    def shadows(self) -> Shadows | None:
        """The shadow models' answers, trained now or found in the pool; None if none are wanted."""
        if not self._count:
            return None
        scene, device = self.bench.scene, self.bench.model.device
        training = BaseTraining.of(scene)

        def train(images: ImageSet, seed: int) -> Classifier:
            model = scene.untrained(device=str(device), seed=seed)
            for _ in training.but(seed=seed).steps(model, images):
                pass
            return model

        made_from: Json = {"model": self.bench.pool.scene["model"], **training.json(), **made_with(device)}
        return train_shadows(
            self.parts,
            train,
            count=self._count,
            seed=self._seed,
            made_from=made_from,
            folder=self.bench.pool.folder / "shadows",
            on_shadow=self._on_shadow,
        )

    def retrained(self, split: str) -> RetrainedModel | None:
        """The reference model of a split as it is on disk now: one chooses on val, another is compared with on test."""
        return find_retrained(self.bench.pool, self.chooser if split == "val" else self.wanted)

    def reference(self, split: str) -> MetricSet | None:
        """The retrained model's metrics that the gap is made of; None if there is no such model."""
        found = self.retrained(split)
        if found is None:
            return None
        key = found.sha256, split
        if key not in self._retrained:
            model = self.bench.fresh_model()
            model.load(found.weights.items())
            self._retrained[key] = measure(model, self.parts, split=split, features=("confidence",))
        return self._retrained[key]

    def require(self) -> RetrainedModel:
        """The retrained model that chooses scales and rates by the gap.

        Raises:
            ParameterError: if the pool has no retrained model.
        """
        return require_retrained(self.bench.pool, self.chooser)

    def metrics(self, model: Classifier, split: str, seconds: float | None = None) -> MetricSet:
        """Every metric of a model, the gap and the time included."""
        found = measure(model, self.parts, split=split, shadows=self.shadows)
        return found.with_gap(self.reference(split), seconds)

    def point(self, model: Classifier, scale: float = 0.0) -> Point:
        """Forget and retain accuracy on validation, with the gap.

        Raises:
            ParameterError: if the pool has no retrained model.
            SplitError: if the validation images are test images.
        """
        self.require()
        found, reference = measure(model, self.parts, split="val", features=("confidence",)), self.reference("val")
        assert reference is not None
        values = {name: found.values[name] for name in GAP_OVER}
        forget, *kept = (
            _accuracy(found.scores[name], found.split).for_choosing() for name in ("forget", "retain", "unseen")
        )
        return Point(scale, forget, pool_accuracies(kept), gap=average_gap(values, reference.values))

    @property
    def _asked(self) -> int:
        """Images that a model answers for one point."""
        known = (self.parts.on(name, "val") for name in ("forgotten", "remaining"))
        return sum(len(images) for images in (*known, self.parts.validation))

    def nearest(
        self, choice: Choice, *, scales: Scales = None, on_point: Callable[[Point], None] | None = None
    ) -> ScaleSearch:
        """The scale of a choice that lies nearest to the retrained model on validation (see `nearest_scale`).

        Raises:
            ParameterError: if the pool has no retrained model.
        """
        self.require()

        def score(scale: float) -> Point:
            with self.bench.at(choice, scale) as model:
                self.evaluations += 1
                self.images += self._asked
                return self.point(model, scale)

        return nearest_scale(score, scales=scales, on_point=on_point)


def _accuracy(score: Json, split: str) -> Accuracy:
    return Accuracy(round(score["value"] * score["n"]), score["n"], split)
