"""Rows of a comparison: one rule by the paper's protocol, at matched retention, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from negmerge_kit.classifier_eval.metric_set import MetricSet
from negmerge_kit.comparison.matched_retention import AtTestRetention, FloorCrossing
from negmerge_kit.comparison.methods import Method
from negmerge_kit.scoring.accuracy import Accuracy, Pair
from negmerge_kit.scoring.scale_search import Ended, Point
from negmerge_kit.types import Json
from negmerge_kit.unlearning.cost import Cost


@dataclass(frozen=True)
class Matched:
    """A rule where retention first meets the floor on validation.

    Attributes:
        crossing: the scale and its bracket.
        forget: forget accuracy on validation, interpolated as the scale is.
        test: test accuracy at that scale; its retention is near the floor, not on it.
        evaluations, seconds: what finding it took beyond the protocol.
    """

    crossing: FloorCrossing
    forget: float
    test: Pair
    evaluations: int
    seconds: float

    def json(self) -> Json:
        """`{"scale", "forget", "retain"}` with test scores, and how the scale was found on validation."""
        return {
            "scale": self.crossing.scale,
            **self.test.json(),
            "validation_forget": self.forget,
            "bracket": self.crossing.json(),
            "evaluations": self.evaluations,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Row:
    """Result of one method.

    Attributes:
        candidates: the ids that it merged.
        params: the rule's parameters, every default filled in.
        status: `ok`; `infeasible` when no scale above 0, or no rate of a baseline, keeps enough; `empty`
            when nothing is left to subtract (the conflict of candidates that agree everywhere); `diverged` when no rate
            of a baseline gave numbers.
        scale: by the protocol. None unless `ok`, and for the base and the baselines, which have none.
        validation, test: at that scale; test was scored once. None unless `ok`, but for an `infeasible` baseline: these
            are then of the rate that keeps most, and keep too little.
        matched: None when retention never falls below the floor, or nothing is left.
        kept_fraction: None where nothing is merged.
        curve: what is known in full on validation, at any scale.
        metrics: of a classifier, its metrics on test.
        trials: of a baseline, the rates that were tried on validation and what each cost.
        reach: the smallest and the largest scale that the protocol's search looked at; None where there was none.
        ended: what ended that range upwards (see `ScaleSearch`).
        outcome: what really happened, where the scale alone would mislead.
        frontier: both sides on the live subset of validation, at even steps to beyond the floor.
        equal: forgetting at equal retention on test, which describes and chooses nothing.
    """

    method: Method
    candidates: tuple[str, ...]
    params: dict[str, Any]
    status: str
    scale: float | None
    validation: Pair | None
    test: Pair | None
    matched: Matched | None
    kept_fraction: float | None
    curve: tuple[Point, ...]
    cost: Cost
    metrics: MetricSet | None = None
    trials: tuple[Json, ...] = ()
    reach: tuple[float, float] | None = None
    ended: Ended | None = None
    outcome: str | None = None
    frontier: tuple[Point, ...] = ()
    equal: AtTestRetention | None = None

    def json(self) -> Json:
        """The entry of `rows` in the JSON contract, and in addition name, title, note, candidates, cost and curve.

        Of a classifier also `metrics` on test, and of a baseline `trials`.
        """
        more: Json = {"metrics": self.metrics.json()} if self.metrics else {}
        if self.trials:
            more["trials"] = list(self.trials)
        return {
            "name": self.method.name,
            "title": self.method.title,
            "rule": self.method.rule,
            "params": self.params,
            "note": self.method.note,
            "candidates": list(self.candidates),
            "status": self.status,
            "scale": self.scale,
            "range": self.reach and list(self.reach),
            "ended": self.ended,
            "outcome": self.outcome,
            "validation": self.validation and self.validation.json(),
            "test": self.test and self.test.json(),
            "matched": self.matched and self.matched.json(),
            "at_test_retention": self.equal and self.equal.json(),
            "kept_fraction": self.kept_fraction,
            "evaluations": self.cost.evaluations,
            "seconds": self.cost.merge + self.cost.search,
            "peak_memory": self.cost.peak_memory,
            "cost": self.cost.json(),
            "curve": [point.json() for point in self.curve],
            "frontier": [point.json() for point in self.frontier],
            **more,
        }

    @classmethod
    def from_json(cls, method: Method, values: Json) -> Row:
        """The row back from what `json` gave."""
        cost = {name: value for name, value in values["cost"].items() if name != "wall"}
        matched = values["matched"]
        return cls(
            method,
            tuple(values["candidates"]),
            values["params"],
            values["status"],
            values["scale"],
            values["validation"] and _pair(values["validation"]),
            values["test"] and _pair(values["test"]),
            matched
            and Matched(
                FloorCrossing(matched["scale"], *(_end(matched["bracket"][name]) for name in ("above", "below"))),
                matched["validation_forget"],
                _pair(matched),
                matched["evaluations"],
                matched["seconds"],
            ),
            values["kept_fraction"],
            _points(values["curve"]),
            Cost(**cost),
            MetricSet.from_json("test", values["metrics"]) if "metrics" in values else None,
            tuple(values.get("trials", ())),
            values["range"] and (values["range"][0], values["range"][1]),
            values["ended"],
            values["outcome"],
            _points(values["frontier"]),
            values["at_test_retention"] and AtTestRetention.from_json(values["at_test_retention"]),
        )


def _points(values: Sequence[Json]) -> tuple[Point, ...]:
    return tuple(Point(v["scale"], _accuracy(v["forget"]), _accuracy(v["retain"]), gap=v.get("gap")) for v in values)


def _pair(values: Json) -> Pair:
    return Pair(_accuracy(values["forget"]), _accuracy(values["retain"]))


def _accuracy(score: Json) -> Accuracy:
    return Accuracy(round(score["value"] * score["n"]), score["n"], score["split"])


def _end(values: Json) -> tuple[float, int]:
    return values["scale"], values["retain"]
