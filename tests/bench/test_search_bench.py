"""The bench itself: both ways search the same decoded files, and tell the same counts."""

import pytest

from benchmarks.__main__ import main
from benchmarks.bench_random_subject import random_scene
from benchmarks.bench_search import bench
from negmerge_kit.scoring.scale_search import METHODS


@pytest.mark.slow
def test_ours_and_the_authors_way_agree_to_the_last_count(tiny_pool):
    told = bench(tiny_pool, device="cpu", scales=(0.0, 0.3, 0.6, 0.9), repeats=1)
    assert told["same"] is True
    assert [row["way"] for row in told["rows"]] == ["authors", *(f"ours, {method}" for method in METHODS)]
    asked = {row["way"]: row["images"] for row in told["rows"]}
    assert asked["ours, early"] < asked["ours, exhaustive"] == asked["authors"] == 4 * 1680
    assert set(told["ratio"]) == set(METHODS) and 0 < told["peak_share"] < 1
    assert told["gflops_per_image"] == pytest.approx(0.0156, abs=0.001)


@pytest.mark.slow
def test_random_weights_make_a_search_like_a_real_one():
    scene = random_scene("negmerge-tiny", 140, "cpu")
    model = scene.build()
    for part in scene.splits:
        assert bool((model.logits(part.images, part.name).argmax(dim=1) == part.labels).all())
    told = bench(model="negmerge-tiny", images=280, device="cpu", scales=(0.0, 0.5, 1.0), repeats=1)
    assert told["images"] == 280 and len(told["rows"]) == 3


def test_a_flag_of_another_subject_is_refused(capsys):
    assert main(["merge", "--images", "5"]) == 2
    assert "takes no --images" in capsys.readouterr().err
