"""Numbers that a change of code must not move in silence: where they move, RESULTS_VERSION grows with them.

`PYTHONPATH=. python tests/pools/test_results_version.py` writes `tests/cases/results.json` after such a change.
"""

import json
from pathlib import Path

import pytest

from negmerge_kit.baselines import BASELINES
from negmerge_kit.comparison.compare import compare_rules
from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.models.load import load_model
from negmerge_kit.models.tiny_clip import fresh_clip
from negmerge_kit.pools.result_store import RESULTS_VERSION
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.pretraining import Pretraining, pretrain_tiny
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.evaluation import evaluate
from tests.baselines.test_baselines_network import unlearn
from tests.comparison.small_workbench import stand

CASES = Path(__file__).parents[1] / "cases" / "results.json"
OF_A_ROW = ("status", "scale", "validation", "test", "matched", "at_test_retention", "kept_fraction")
OF_A_SCORE = ("scale", "forget", "retain", "value", "n")
CLOSE = 1e-3
"""Relative: another processor rounds the sums of a training differently, other formulas move it by more."""


def rows():
    """Every rule by the protocol and at matched retention, on the toy that answers from its weights."""
    found = compare_rules(stand(), "negmerge uniform ties magmax dare single".split(), scales=(0.0, 0.25, 0.5, 0.75, 1))
    return {row["name"]: {name: only_scores(row[name]) for name in OF_A_ROW} for row in found.json()["rows"]}


def baselines():
    """The losses of every baseline on a small network, and the size of the weights that it leaves."""
    numbers = {}
    for name in BASELINES:
        network, steps = unlearn(name)
        size = sum(float(weight.double().norm()) for weight in network.weights().values())
        numbers[name] = {"losses": [step.loss for step in steps], "size": size}
    return numbers


def embedded():
    """The shipped model's right answers, and the first losses of its fine-tuning and of its pretraining."""
    model = load_model("tiny", device="cpu")
    right = {name: evaluate(model, family_images(name, "val")).correct for name in FAMILIES}
    images = family_images("digits", "train").take(128)
    recipes = (Recipe(lr=1e-3, epochs=2), Recipe(lr=0.05, epochs=2, optimizer="sgd", schedule="multistep"))
    steps = [step for recipe in recipes for step in finetune(model, images, recipe)]
    pretraining = pretrain_tiny(fresh_clip(0), Pretraining(batch=16), families=list(FAMILIES)[:2])
    return {
        "right": right,
        "finetune": [step.loss for step in steps],
        "pretraining": [next(pretraining).loss for _ in range(3)],
    }


def only_scores(values):
    if isinstance(values, dict):
        return {name: only_scores(value) for name, value in values.items() if name in OF_A_SCORE}
    return values


def differing(found, kept, place=""):
    """Where two trees of plain values differ, in words."""
    if isinstance(found, dict) and isinstance(kept, dict):
        for name in sorted({*found, *kept}):
            yield from differing(found.get(name), kept.get(name), f"{place}/{name}")
    elif isinstance(found, list) and isinstance(kept, list) and len(found) == len(kept):
        for index, pair in enumerate(zip(found, kept, strict=True)):
            yield from differing(*pair, f"{place}/{index}")
    elif found != (pytest.approx(kept, rel=CLOSE) if isinstance(kept, float) else kept):
        yield f"{place} is {found}, not {kept}"


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [rows, baselines, embedded], ids=lambda numbers: numbers.__name__)
def test_numbers_are_those_of_the_results_version(numbers):
    kept = json.loads(CASES.read_text())
    found = list(differing(json.loads(json.dumps(numbers())), kept[numbers.__name__]))
    assert not found, f"numbers changed: raise RESULTS_VERSION, then write {CASES} again. {found[0]}"
    assert kept["version"] == RESULTS_VERSION, f"write {CASES} again, under the new version"


def test_a_changed_number_is_seen():
    kept = {"a": [1, 0.5], "b": {"c": None}}
    assert not list(differing({"a": [1, 0.50001], "b": {"c": None}}, kept))
    for other in ({"a": [2, 0.5]}, {"a": [1, 0.51]}, {"a": [1]}, {"b": {}}, {"b": {"c": 0}}, {"d": 1}):
        assert len(list(differing(kept | other, kept))) == (0 if other == {"b": {}} else 1), other


if __name__ == "__main__":
    told = {"version": RESULTS_VERSION, **{numbers.__name__: numbers() for numbers in (rows, baselines, embedded)}}
    CASES.write_text(json.dumps(told, indent=1) + "\n")
