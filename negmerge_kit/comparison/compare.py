"""Rules compared at equal retention: the paper's protocol, and the scale at which retention crosses its floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from negmerge_kit.comparison.classifier_rule_rows import ClassifierRunner
from negmerge_kit.comparison.methods import BASE, RETRAIN, RETRAIN_AGAIN, Method, find_method, find_methods
from negmerge_kit.comparison.options import PLAIN, ComparisonOptions
from negmerge_kit.comparison.row import Row
from negmerge_kit.comparison.rule_rows import ComparisonRunner, PoolBackend
from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.pools.pool import Pool
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.scoring.accuracy import Pair
from negmerge_kit.scoring.early_stopping import scale_grid
from negmerge_kit.scoring.intervals import Spread
from negmerge_kit.scoring.metrics import METRICS
from negmerge_kit.scoring.scale_search import KEEP, Scales
from negmerge_kit.types import Json
from negmerge_kit.unlearning.workbench import Workbench

REFERENCE = "negmerge"
"""The rule that the others are compared with."""


MERGED_STATISTICS = (
    "running statistics are merged: a row is searched up to the scale from which on one of its variances would be "
    "negative, and no retention beyond it is looked for."
)
"""What bounds the scales where running statistics are merged."""


class FinishedRows(Protocol):
    """Cache of finished rows, such as `RowStore`."""

    def find(self, method: Method, ids: Sequence[str]) -> Row | None:
        """The row if it was finished before."""

    def keep(self, row: Row, ids: Sequence[str]) -> None:
        """Store a finished row."""


@dataclass(frozen=True)
class Comparison:
    """Rules on one pool at one floor.

    Attributes:
        pool: the pool's folder, as a name; candidates: the ids that the rules chose from.
        base: the base's scores by split, `val`, `test` and `live`, the subset of validation that frontiers are on.
        warnings: what to know before believing the rows.
        forced: candidates that were let in although they were made from another base.
        options: of a standard classifier's pool; else None.
        buffers: what became of running statistics in the rows that merge.
        beyond: whether the searches went on beyond `scales` where a rule had not met the floor at their end.
        images: of a standard classifier's pool, how many images of each part choose on "val" and report on "test", and
            the parts that are "shared": the very same images do both.
    """

    pool: str
    candidates: tuple[str, ...]
    keep: float
    scales: tuple[float, ...]
    base: dict[str, Pair]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    runner: ComparisonRunner | None = field(default=None, repr=False, compare=False)
    options: ComparisonOptions | None = None
    buffers: str = "keep"
    beyond: bool = False
    images: Json | None = None

    @property
    def noise_floor(self) -> float | None:
        """The gap between two retrained models, below which a gap says nothing; None where there are no two."""
        rows = [row.metrics.values for row in self.rows if row.method.rule == RETRAIN_AGAIN and row.metrics]
        return rows[0].get("gap") if rows else None

    @property
    def within_noise(self) -> tuple[int, int] | None:
        """How many of the rows that unlearn are no farther from the model that judges than another retrained one is,
        and of how many; None where there are no two retrained models.
        """
        floor = self.noise_floor
        if floor is None:
            return None
        others = [row for row in self.rows if row.method.rule not in (BASE, RETRAIN, RETRAIN_AGAIN) and row.metrics]
        gaps = [row.metrics.values["gap"] for row in others if row.metrics]
        return sum(gap <= floor for gap in gaps), len(gaps)

    @property
    def floor(self) -> float:
        """The retention floor on validation, as an accuracy."""
        return self.keep * self.base["val"].retain.value

    @property
    def statistics(self) -> str:
        """Suffix for headlines: the policy for running statistics where it is not "keep", else empty."""
        return "" if self.buffers == "keep" else f"; running statistics: {self.buffers}"

    @property
    def feasible(self) -> bool:
        """Whether any row has a scale above the floor."""
        return any(row.status == "ok" and row.method.rule != BASE for row in self.rows)

    def json(self) -> Json:
        """The object of `compare --json` for one pool."""
        return {
            "pool": self.pool,
            "candidates": list(self.candidates),
            "keep": self.keep,
            "seeds": 1,
            "scales": list(self.scales),
            "beyond": self.beyond,
            "buffers": self.buffers,
            "base": {split: pair.json() for split, pair in self.base.items()},
            "rows": [row.json() for row in self.rows],
            "warnings": list(self.warnings),
            "forced": list(self.forced),
            **(self.options.json() | {"noise_floor": self.noise_floor, "images": self.images} if self.options else {}),
        }


def compare_rules(
    workbench: PoolBackend,
    rules: Sequence[Method | str] | None = None,
    *,
    keep: float = KEEP,
    scales: Scales = None,
    buffers: str = "keep",
    kept: FinishedRows | None = None,
    options: ComparisonOptions = PLAIN,
    on_row: ProgressFn = no_progress,
    on_step: ProgressFn = no_progress,
    recompute: bool = False,
) -> Comparison:
    """Compare unlearning rules on one pool at equal retention.

    Every rule's scale is chosen on validation by the paper's protocol (the scale that forgets most with at least
    keep times the base's retention, arXiv:2410.05583) and scored once on test. Each row also has forgetting at matched
    retention: the scale, on no grid and without a cap, where retention first falls below that floor on validation
    (`matched_retention_scale`), with test forget and test retain there. All rules share one scorer: images stay
    resident, one model is updated in place, scales that cannot win are dropped early, and nothing is scored twice.

    On a standard classifier's pool the rows are also baselines, and each has every metric of METRICS on test.

    Args:
        workbench: the pool on its device.
        rules: methods, or names as `find_method` reads them; by default all rules, both searches and, on a
            classifier's pool, all baselines.
        keep: share of the base's retention to keep, in (0, 1].
        scales: the protocol's scales and no others; None for the paper's grid, and on beyond it where a rule has not
            met the floor at its end (see `search_scale`).
        buffers: what becomes of running statistics in every row that merges: keep, merge or recalibrate.
        kept: where finished rows are found again and new ones go, e.g. `RowStore(pool, ...)`.
        options: on a classifier's pool, by what scales and rates are chosen, and how hard the attacks try.
        on_row: called with each row that comes next: its step is the rows that are done.
        on_step: called with each training step of a baseline: its rate, and how far the search of all its rates is.
        recompute: whether baselines try every rate again, and the retrained model, where it is a row, is made again,
            whatever the pool keeps.

    Raises:
        ParameterError: for a pool of fewer than two candidates, keep or a scale out of range, or a policy for running
            statistics that the model or its scene does not allow.
        PoolError: for candidates of another base, unless the pool was opened with `force`; they are then named.
        SceneError: if a side of a split has no image.
        CheckpointError: if a model answers with NaN, or a finished row cannot be written.
    """
    pool = workbench.pool
    methods = _methods(rules, pool)
    if not 0.0 < keep <= 1.0:
        raise ParameterError(f"keep is {keep}: give the share of retention to keep, above 0 and at most 1.")
    grid = tuple(scale_grid(scales))
    if not any(grid):
        raise ParameterError("no scale above 0 to try: give at least one, such as 0:1:0.05.")
    forced = strangers(pool)
    ids = pool.distinct
    if len(ids) < 2:
        raise ParameterError(
            f"{pool.folder} has {len(ids)} candidate: with one, every rule is that candidate. Add others first."
        )
    workbench.choose(buffers=buffers)  # refused before the work
    runner = _runner(workbench, keep, scales, buffers, options, methods, on_step, recompute)
    base = {split: runner.base(split) for split in ("val", "test", "live")}
    rows = []
    for index, method in enumerate(methods):
        on_row(Progress(_rule_of(method.title, index, len(methods)), step=index, total=len(methods)))
        row = kept.find(method, ids) if kept else None
        if row is None or not runner.finished(row):
            row = runner.row(method)
            if kept:
                kept.keep(row, ids)
        rows.append(row)
    warnings = (*doubts(workbench), *([MERGED_STATISTICS] if buffers == "merge" else []))
    used = options if isinstance(runner, ClassifierRunner) else None
    return Comparison(
        str(pool.folder),
        ids,
        keep,
        grid,
        base,
        tuple(rows),
        warnings,
        forced,
        runner,
        used,
        buffers,
        beyond=scales is None,
        images=parts_used(pool.scene) if used else None,
    )


def _rule_of(title: str, done: int, total: int) -> str:
    """Progress text: the rule being compared and its number, or "last rule".

    >>> _rule_of("TIES-Merging", 0, 2), _rule_of("MagMax", 1, 2)
    ('TIES-Merging, 1 of 2', 'MagMax, last rule')
    """
    return f"{title}, last rule" if done + 1 == total else f"{title}, {done + 1} of {total}"


def _runner(
    backend: PoolBackend,
    keep: float,
    scales: Scales,
    buffers: str,
    options: ComparisonOptions,
    methods: Sequence[Method],
    on_step: ProgressFn,
    recompute: bool,
) -> ComparisonRunner:
    if isinstance(backend, Workbench) and is_classifier(backend.pool):
        runner = ClassifierRunner(
            backend, keep=keep, scales=scales, buffers=buffers, options=options, on_step=on_step, recompute=recompute
        )
        runner.prepare(methods)
        return runner
    if options != PLAIN:
        raise ParameterError(
            f"{backend.pool.folder} is no standard classifier's pool: scales are chosen by the floor there; leave "
            "--choose, --shadows and --epochs out."
        )
    return ComparisonRunner(backend, keep=keep, scales=scales, buffers=buffers)


def is_classifier(pool: Pool) -> bool:
    """Whether a pool's model is a standard classifier, whose training images are parted."""
    return pool.scene.get("forgetting") is not None


def parts_used(scene: Json) -> Json:
    """How many images of each part of a classifier's scene choose and report, and the parts of which the same do both.

    >>> from negmerge_kit.scenes.find import open_scene
    >>> parts_used(open_scene("tiny-classifier").describe())["val"]
    {'forgotten': 60, 'remaining': 540, 'unseen': 240}
    """
    sets = {(entry["name"], entry["split"]): entry for entry in scene["sets"]}
    used: Json = {
        split: {name: entry["n"] for (name, on), entry in sets.items() if on == split} for split in ("val", "test")
    }
    shared = [name for name in used["val"] if sets[name, "val"]["fingerprint"] == sets[name, "test"]["fingerprint"]]
    return used | {"shared": shared}


def strangers(pool: Pool) -> tuple[str, ...]:
    """The candidates that were made from another base than the pool's; they are there only if it was forced open.

    Raises:
        PoolError: if there is one and the pool was not opened with `force`.
    """
    found = tuple(entry.id for entry in pool.entries if pool.stranger(entry))
    if found and not pool.forced:
        raise PoolError(
            f"candidate {', '.join(found)} of {pool.folder} was made from another base: "
            "take it out of the pool, or let it in with --force, which is recorded."
        )
    return found


def doubts(backend: PoolBackend) -> list[str]:
    """What makes a comparison on this pool mean less: equal candidates, classes without images.

    Where a class is forgotten whole, its images are the forget set and no retain set has any: no warning then.
    """
    warnings, whole = [*backend.pool.repeats], (backend.pool.scene.get("forgetting") or {}).get("of_class")
    for split in ("val", "test"):
        for images in backend.images(split):
            present = set(images.labels.tolist())
            absent = [name for label, name in enumerate(images.classes) if label not in present]
            if whole is not None:
                absent = [name for name in absent if (name == whole) == (images.name == "forgotten")]
            if absent:
                warnings.append(
                    f"{images.name} has no {split} image of {', '.join(absent[:3])}"
                    f"{' and others' if len(absent) > 3 else ''}: its numbers say nothing about that."
                )
    return warnings


def across(comparisons: Sequence[Comparison], *, independent: bool = True) -> list[Json]:
    """Each row's numbers on test over several pools, in their order: points and range; an interval from 8 pools on.

    Rows that are missing, infeasible or never crossed in a pool leave no point there: `pools` says how many are there.
    For standard classifiers every metric on test is included.
    Subsets of one pool are not `independent`, however many: they never get an interval.
    """
    names = list(dict.fromkeys(row.method.name for comparison in comparisons for row in comparison.rows))
    result = []
    for name in names:
        rows = [row for comparison in comparisons for row in comparison.rows if row.method.name == name]
        protocol = [row.test for row in rows if row.test]
        matched = [row.matched for row in rows if row.matched]
        measured = [row.metrics.values for row in rows if row.metrics]
        metrics = {
            metric: _spread([values[metric] for values in measured], independent)
            for metric in METRICS
            if measured and all(metric in values for values in measured)
        }
        result.append(
            {
                "name": name,
                "title": rows[0].method.title,
                "protocol": _sides(protocol, independent),
                "matched": _sides([item.test for item in matched], independent)
                | {"validation_forget": _spread([item.forget for item in matched], independent)},
                "at_test_retention": _spread([row.equal.value for row in rows if row.equal], independent),
                **({"metrics": metrics} if measured else {}),
            }
        )
    return result


def _sides(pairs: Sequence[Pair], independent: bool) -> Json:
    return {
        "pools": len(pairs),
        "forget": _spread([pair.forget.value for pair in pairs], independent),
        "retain": _spread([pair.retain.value for pair in pairs], independent),
    }


def _spread(values: Sequence[float], independent: bool) -> Json | None:
    if not values:
        return None
    spread = Spread(tuple(values)).json()
    return spread if independent else spread | {"interval": None}


def _methods(rules: Sequence[Method | str] | None, pool: Pool) -> tuple[Method, ...]:
    if rules is None:
        return find_methods(classifier=is_classifier(pool))
    methods = tuple(rule if isinstance(rule, Method) else find_method(rule) for rule in rules)
    if not methods:
        raise ParameterError("nothing to compare: name at least one rule or search.")
    return methods
