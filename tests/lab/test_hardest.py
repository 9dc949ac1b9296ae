"""Order never changes a count: hardest first answers as any order does, and sooner."""

from dataclasses import replace

import pytest
import torch

from negmerge_kit.errors import CheckpointError, SceneError
from negmerge_kit.lab.evaluation import evaluate_splits
from negmerge_kit.lab.hardest import HardestFirst
from negmerge_kit.scoring.scale import search_scale


@pytest.mark.slow
def test_every_count_is_that_of_the_plain_order(bench):
    choice, hardest = bench.choose(), HardestFirst(bench.images("val"))
    for scale in (0.0, 1.0, 0.4, 0.7):
        with bench.at(choice, scale) as model:
            plain = evaluate_splits(model, bench.images("val"))
            assert hardest.scores(model) == plain
            point = hardest.point(model, scale, retain_at_least=0)
        assert (point.forget, point.retain) == (plain.forget, plain.retain)
        assert dict(point.sets) == {name: plain.families[name] for name in bench.scene.retain}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "most"), [("early", 0.35), ("bisect", 0.3)])
def test_a_search_asks_a_fraction_of_the_images(bench, method, most, monkeypatch):
    choice, asked = bench.choose(), []
    features = bench.model.features
    monkeypatch.setattr(bench.model, "features", lambda images: (asked.append(len(images)), features(images))[1])
    hardest = HardestFirst(bench.images("val"))

    def score(scale, **bounds):
        with bench.at(choice, scale) as model:
            return hardest.point(model, scale, **bounds)

    found = search_scale(score, method=method)
    quick = sum(asked)
    whole = search_scale(score, method="exhaustive")
    assert found.best == whole.best
    assert quick < most * (sum(asked) - quick)


@pytest.mark.slow
def test_a_floor_for_each_set_is_held_to_the_image(bench):
    choice = bench.choose()
    keep = {"letters": 0.97, "shapes": 0.9}
    found = bench.search(choice, keep=keep, remember=False)
    whole = bench.search(choice, keep=keep, method="exhaustive", remember=False)
    assert found.best == whole.best and found.best is not None
    base = bench.base_scores("val").families
    feasible = [
        (point.forget.correct, point.scale)
        for point in whole.curve
        if all(point.sets[name].value >= share * base[name].value for name, share in keep.items())
    ]
    assert found.best.scale == min(feasible)[1]
    nothing = bench.search(choice, keep={"letters": 1.0, "textures": 1.0}, scales=[2.0, 3.0])
    assert nothing.status == "infeasible" and "retention of" in nothing.failing


def test_a_nan_is_an_error_not_a_class(bench):
    hardest = HardestFirst(bench.images("val"))
    with bench.at(None, 0.0) as model:
        broken = dict(model.heads)
        model.heads = {name: torch.full_like(head, float("nan")) for name, head in broken.items()}
        try:
            with pytest.raises(CheckpointError, match="NaN"):
                hardest.scores(model)
        finally:
            model.heads = broken


def test_a_set_without_images_is_refused(bench):
    splits = bench.images("val")
    with pytest.raises(SceneError, match="shapes has no val image"):
        HardestFirst(replace(splits, retain=(splits.retain[0].take(0), *splits.retain[1:])))
