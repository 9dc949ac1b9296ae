"""Kept points: a killed search goes on, a repeated one is free, nothing stale or broken is believed."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.lab import kept_points, provenance
from negmerge_kit.lab.kept_points import KeptPoints
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.scoring import Accuracy, search_scale
from negmerge_kit.scoring.curve import stop_early
from negmerge_kit.scoring.scale import METHODS

CPU = torch.device("cpu")
GRID = [0.0, 0.3, 0.6, 0.9]


@pytest.fixture
def passes(own_pool, monkeypatch):
    """A workbench on a pool of its own, and the images that it has answered."""
    shutil.rmtree(own_pool / "searches", ignore_errors=True)
    monkeypatch.setattr(kept_points, "WRITE_EVERY", 0.0)
    bench = Workbench(open_pool(own_pool), device="cpu")
    features, asked = bench.model.features, []
    monkeypatch.setattr(bench.model, "features", lambda images: (asked.append(len(images)), features(images))[1])
    return bench, asked


@pytest.mark.slow
def test_a_killed_search_goes_on_and_a_repeated_one_asks_nothing(passes):
    bench, asked = passes
    choice, told = bench.choose(), []
    expected = bench.search(choice, scales=GRID, remember=False)
    whole = len(asked)

    def stop(point):
        told.append(point)
        if len(told) == 2:
            raise KeyboardInterrupt

    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        bench.search(choice, scales=GRID, on_point=stop)
    before = len(asked)
    assert bench.search(choice, scales=GRID) == expected
    assert 0 < before and len(asked) - before < whole - 1
    asked.clear()
    for method in ("early", "bisect"):
        assert bench.search(choice, scales=GRID, method=method).best == expected.best
    assert not asked
    assert bench.search(choice, scales=GRID, method="exhaustive").best == expected.best and asked


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"val"', "7"),
        lambda text: json.dumps(json.loads(text) | {"made_from": {}}),
        lambda text: json.dumps({**json.loads(text), "points": [{"scale": 0.9, "forget": [999, 1, "val"]}]}),
        lambda text: json.dumps({**json.loads(text), "points": [{"scale": 0.9, "sets": {}}]}),
    ],
)
def test_a_damaged_file_counts_as_none(bench, tmp_path, damage):
    pool, choice = replace(bench.pool, folder=tmp_path), bench.choose()
    model = Fake([4, 3, 2, 1], [8, 8, 7, 5])
    with KeptPoints(pool, choice, "val", CPU) as kept:
        search_scale(kept.around(model.score), scales=GRID)
    path = kept.path
    assert KeptPoints(pool, choice, "val", CPU).find(0.0, None, None) is not None
    path.write_text(damage(path.read_text()))
    assert KeptPoints(pool, choice, "val", CPU).find(0.0, None, None) is None


def test_anything_changed_is_another_file(bench, monkeypatch):
    pool, choice = bench.pool, bench.choose()
    places = {KeptPoints(pool, choice, "val", CPU).path}

    def another(pool=pool, choice=choice, split="val", device=CPU):
        path = KeptPoints(pool, choice, split, device).path
        assert path not in places
        places.add(path)

    another(split="test")
    another(device=torch.device("meta"))
    another(choice=bench.choose(bench.pool.ids[:2]))
    another(choice=bench.choose(params={"agreement": 0.7}))
    another(choice=bench.choose(rule="uniform"))
    another(choice=replace(choice, buffers="merge"))
    another(pool=replace(pool, base_file=replace(pool.base_file, sha256="0" * 64)))
    another(pool=replace(pool, heads_file=replace(pool.heads_file, sha256="0" * 64)))
    another(pool=replace(pool, entries=tuple(replace(e, sha256=e.sha256[::-1]) for e in pool.entries)))
    sets = [entry | {"fingerprint": "0" * 64} for entry in pool.scene["sets"]]
    another(pool=replace(pool, scene={**pool.scene, "sets": sets}))
    monkeypatch.setattr(provenance, "RESULTS_VERSION", -1)
    another()


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(bench, tmp_path):
    (tmp_path / "searches").write_text("in the way")
    model = Fake([4, 3, 2, 1], [8, 8, 8, 5])
    with KeptPoints(replace(bench.pool, folder=tmp_path), bench.choose(), "val", CPU) as kept:
        found = search_scale(kept.around(model.score), scales=GRID)
    assert found.best.scale == 0.6


class Fake:
    """A model of two retain sets that is right on so many images at each scale of GRID."""

    def __init__(self, forget, a, b=(3, 3, 3, 3)):
        self.counts = dict(zip(GRID, zip(forget, a, b, strict=True), strict=True))

    def score(self, scale, **bounds):
        forget, a, b = self.counts[scale]
        bounds = {"forget_at_most": None, "retain_at_least": None} | bounds

        def images(name, right, n):
            return ((name, int(i < right), 1) for i in range(n))

        retain = [*images("a", a, 8), *images("b", b, 3)]
        sizes = {"forget_n": 4, "retain_n": {"a": 8, "b": 3}}
        return stop_early(images("f", forget, 4), retain, scale=scale, split="val", **sizes, **bounds)


counts = st.lists(st.integers(0, 8), min_size=4, max_size=4)
share = st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0])
keeps = st.one_of(share, st.dictionaries(st.sampled_from("ab"), share, min_size=1))


@given(counts, counts, counts, st.lists(st.tuples(keeps, st.sampled_from(METHODS)), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_what_earlier_searches_kept_never_changes_an_answer(bench, tmp_path_factory, forget, a, b, searches):
    pool, choice = replace(bench.pool, folder=tmp_path_factory.mktemp("kept")), bench.choose()
    model = Fake([min(f, 4) for f in forget], a, [min(k, 3) for k in b])
    for keep, method in searches:
        with KeptPoints(pool, choice, "val", CPU) as kept:
            found = search_scale(kept.around(model.score), scales=GRID, keep=keep, method=method)
        fresh = search_scale(model.score, scales=GRID, keep=keep, method="exhaustive")
        if method != "bisect" or not found.monotone:
            assert found.best == fresh.best
        if found.best:
            assert found.best.forget == Accuracy(model.counts[found.best.scale][0], 4, "val")
