"""The papers' table of random-sample forgetting on CIFAR-10: what was published, with what is measured here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from negmerge_kit.baselines import BASELINES
from negmerge_kit.comparison.classifier_rule_rows import models_to_make
from negmerge_kit.comparison.compare import Comparison
from negmerge_kit.comparison.methods import BASE, RETRAIN, RETRAIN_AGAIN, SEARCHES, Method
from negmerge_kit.comparison.options import PLAIN, ComparisonOptions
from negmerge_kit.merging.rules import RULES
from negmerge_kit.models.classifier import Classifier
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scoring.early_stopping import DEFAULT_SCALES, Scales, scale_grid
from negmerge_kit.scoring.gap import GAP_OVER
from negmerge_kit.scoring.membership_attacks import FEATURES
from negmerge_kit.training.forecast import SUSTAINED, TRAINING, check_tflops, count_images, flops_per_image
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

ATTACK = 11.0
"""Seconds of one core for one membership attack on 20,000 answers (benchmarks/membership.py), taken on busy cores; the
time grows with their square."""

PROTOCOL = (
    RETRAIN,
    RETRAIN_AGAIN,
    "fine-tune",
    "gradient-ascent",
    "random-labels",
    "influence",
    "l1-sparse",
    "boundary-shrink",
    "boundary-expand",
    "salun",
    "scrub",
    "bad-teacher",
)
"""What `all` baselines are here: the table's own and two of its time, so that it does not grow when the kit does."""

RECORD = Path(__file__).parent / "published" / "cifar10_random.json"


@dataclass(frozen=True)
class PublishedRows:
    """What was published of one network on one set, of which one share was forgotten; no row for anything else.

    Attributes:
        rows: each with its `row`, title, source, and the published numbers, as fractions.
        second_hand: the sources that were read from somebody's copy of a table, not from the paper.
        why_none: a sentence where there is no row.

    >>> [row["gap"] for row in find_published_rows("resnet18").of("negmerge")]
    [0.0107, 0.029]
    >>> find_published_rows("resnet18", share=0.5).why_none
    'Nothing is published for this: published are 10 % of cifar10, resnet18; 10 % of cifar10, vgg16-bn.'
    """

    rows: tuple[Json, ...]
    sources: Json = field(repr=False)
    second_hand: tuple[str, ...] = ()
    why_none: str | None = None

    def of(self, name: str) -> list[Json]:
        """The published rows of one method: several where data or source differ."""
        return [row for row in self.rows if row["row"] == name]


def find_published_rows(network: str, data: str = "cifar10", share: float = 0.1) -> PublishedRows:
    """The published rows of a network of the kit, e.g. `resnet18` or `vgg16-bn`, for the same data and share only.

    Args:
        data: DATA as `find_data` reads it; a local copy, as `cifar10:PATH`, is the same data.
        share: of the training images to forget.
    """
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    every = [
        {"network": name, **row, "second_hand": row["source"] in record["second_hand"]}
        for name, model in record["models"].items()
        for row in model["rows"]
    ]
    asked = (network, data.partition(":")[0], share)
    rows = [row for row in every if (row["network"], row["data"], row["share"]) == asked]
    known = dict.fromkeys(f"{100 * row['share']:g} % of {row['data']}, {row['network']}" for row in every)
    why_none = None if rows else f"Nothing is published for this: published are {'; '.join(known)}."
    return PublishedRows(tuple(rows), record["sources"], tuple(record["second_hand"]), why_none)


def with_published(comparison: Comparison, published: PublishedRows) -> list[Json]:
    """Every measured row with the published ones of its name, then what was published but is not measured here."""
    lines: list[Json] = []
    for row in comparison.rows:
        measured = None
        if row.metrics:
            measured = {name: row.metrics.scores[name] for name in (*GAP_OVER, "gap", "seconds")}
        lines.append(
            {
                "row": row.method.name,
                "title": row.method.title,
                "status": row.status,
                "scale": row.scale,
                "measured": measured,
                "published": published.of(row.method.name),
            }
        )
    measured_names = {line["row"] for line in lines}
    for name in dict.fromkeys(row["row"] for row in published.rows):
        if name not in measured_names:
            known = published.of(name)
            lines.append(
                {
                    "row": name,
                    "title": known[0]["title"],
                    "status": "not measured",
                    "scale": None,
                    "measured": None,
                    "published": known,
                }
            )
    return lines


def forecast_rows(
    scene: ClassifierScene,
    model: Classifier,
    methods: Sequence[Method],
    base: Recipe,
    grid: Callable[[str, int], Sequence[Recipe]],
    *,
    options: ComparisonOptions = PLAIN,
    scales: Scales = DEFAULT_SCALES,
    tflops: float = SUSTAINED,
) -> Json:
    """Trainings, steps, computing time and disk of the table as asked for, before anything is fetched or trained.

    Images are counted by the sets that each row reads, each once an epoch (NegGrad+ begins the forget set again within
    one); a search as if no scale were ever given up early and greedy selection tried every candidate. What a pool may
    keep from before, and the way to the crossing of the floor, are left out.

    Args:
        model: an untrained one, whose forward pass is counted; its network also says which rates baselines try.
        base: the recipe of base, retrained model and shadow models.
        grid: the candidates' recipes, by the forget set's name and size.
        options: by the gap, every scale and every rate that is tried takes an attack on validation.

    Raises:
        ParameterError: unless `tflops` is a finite number above 0.
        SceneError: for unregistered data that are not here yet.
    """
    check_tflops(tflops)
    source, flops = scene.forgetting.source, flops_per_image(model)
    n = {split: count_images(source, split, scene.transform) for split in ("train", "val", "test")}
    sets = _sizes(scene.forgetting, n)
    known = sets["forget"] + sets["remaining"]
    recipes = grid("forgotten", sets["forget"])
    rows = [_trained("base", 1, [(base.epochs, sets["seen"], base.batch_size)])]
    passes = [(recipe.epochs, sets["forget"], recipe.batch_size) for recipe in recipes]
    rows.append(_trained("candidates", len(recipes), passes))
    trained = [(method.name, method.rule) for method in methods if method.is_baseline and method.rule != BASE]
    if "val" in models_to_make(methods, options) and all(rule != RETRAIN_AGAIN for _, rule in trained):
        trained.append((RETRAIN_AGAIN, RETRAIN_AGAIN))  # no row of the table, but what chooses has to be trained
    for name, rule in trained:
        baseline = BASELINES[RETRAIN if rule == RETRAIN_AGAIN else rule]
        preset = baseline.preset_of(str(model.spec))
        tries = max(1, len(preset.rates))
        epochs = options.epochs or preset.epochs or base.epochs
        size = baseline.resolve(preset.params).get("batch_size", base.batch_size)
        rows.append(_trained(name, tries, [(tries * epochs, sets[part], size) for part in baseline.reads]))
    if options.shadows:
        every = known + sets["val"] + sets["test"]
        rows.append(
            _trained("shadows", options.shadows, [(options.shadows * base.epochs, every // 2, base.batch_size)])
        )
    for row in rows:
        row["hours"] = TRAINING * row["images"] * flops / (tflops * 1e12) / 3600
    rules = {method.rule for method in methods}
    searches = sum(len(method.settings) for method in methods if method.rule in RULES)
    searches += len(recipes) * bool(rules & SEARCHES.keys()) + (len(recipes) - 1) * ("greedy" in rules)
    looked = searches * len({0.0, *scale_grid(scales)})
    tried = sum(row["trainings"] for row in rows if row["row"] in BASELINES and row["row"] != RETRAIN)
    chosen_on = known // 2 if scene.forgetting.halved else known  # the other half reports
    reported_on = known - chosen_on if scene.forgetting.halved else known
    answered = (looked + tried) * (chosen_on + sets["val"]) + len(methods) * (reported_on + sets["test"])
    attacks = {2 * sets["test"]: len(FEATURES) * len(methods)}
    if options.choose == "gap":
        attacks[2 * sets["val"]] = attacks.get(2 * sets["val"], 0) + looked + tried
    attack_hours = sum(count * ATTACK * (size / 20_000) ** 2 for size, count in attacks.items()) / 3600
    search_hours = answered * flops / (tflops * 1e12) / 3600
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.weights("meta").values())
    disk = (2 + len(recipes)) * weights + sum(n.values()) * scene.transform.nbytes + (source.bytes or 0)
    return {
        "data": source.name,
        "licence": source.licence,
        "images": {**n, "forgotten": sets["forget"], "remaining": sets["remaining"]},
        "candidates": len(recipes),
        "model_bytes": weights,
        "download_bytes": source.bytes,
        "disk_bytes": disk,
        "assumed_tflops": tflops,
        "trainings": sum(row["trainings"] for row in rows),
        "steps": sum(row["steps"] for row in rows),
        "scales": looked,
        "search_hours": search_hours,
        "attacks": sum(attacks.values()),
        "attack_hours": attack_hours,
        "gpu_hours": sum(row["hours"] for row in rows) + search_hours,
        "rows": rows,
    }


def _sizes(forgetting: Forgetting, n: dict[str, int]) -> dict[str, int]:
    """Images of each part; of the split as published to a few, which its draw decides (see `published_split`), and
    as if validation were drawn from the training files.
    """
    share, every = forgetting.share or 0, n["train"]
    if not forgetting.as_published:
        forget = round(share * every)
        return {"seen": every, "forget": forget, "remaining": every - forget, "val": n["val"], "test": n["test"]}
    every += n["val"]
    seen = every - every // 10
    forget = int(share * seen)
    return {"seen": seen, "forget": forget, "remaining": seen - forget, "val": every // 100, "test": n["test"]}


def _trained(name: str, trainings: int, passes: Sequence[tuple[int, int, int]]) -> Json:
    """A row of the forecast from its passes: how many, over how many images, in batches of how many."""
    images = sum(times * count for times, count, _ in passes)
    steps = sum(times * -(-count // batch) for times, count, batch in passes)
    return {"row": name, "trainings": trainings, "images": images, "steps": steps}
