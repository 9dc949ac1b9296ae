"""The study of uneven pools: how equal retention is read off, how intervals come about, and a small study run whole."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import uneven
from benchmarks.equal_retention import Curve, Resamples, reading, walk
from negmerge_kit.comparison.matched_retention import FLOORS
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.sweeps.pool_setup import start_pool


def first(count, n):
    return np.arange(n) < count


def curve(*points):
    """Scales with how many of 100 forget images and of 1,000 retain images are right."""
    scales, forget, retain = zip(*points, strict=True)
    return Curve(scales, np.stack([first(k, 100) for k in forget]), np.stack([first(k, 1000) for k in retain]))


def test_reading_is_the_mean_of_the_floors_crossings():
    # The base keeps 1,000: the floors 930 to 970 are crossed a tenth of the way apart, at 60 - 40 * (1000 - r) / 100.
    found = reading(curve((0.0, 60, 1000), (1.0, 20, 900)))
    assert found == pytest.approx([np.mean([0.6 - 0.4 * (1 - keep) * 10 for keep in FLOORS])])


def test_reading_takes_the_first_fall_and_ignores_a_later_recovery():
    steady = ((0.0, 60, 1000), (1.0, 20, 900))
    assert reading(curve(*steady, (2.0, 0, 1000), (3.0, 0, 100))) == pytest.approx(reading(curve(*steady)))


def test_counts_of_images_are_their_repetition():
    points = curve((0.0, 60, 1000), (0.5, 50, 960), (1.0, 20, 900))
    generator = np.random.default_rng(1)
    forget, retain = (generator.multinomial(n, np.full(n, 1 / n)) for n in (100, 1000))
    repeated = Curve(points.scales, np.repeat(points.forget, forget, axis=1), np.repeat(points.retain, retain, axis=1))
    assert reading(points, forget[:, None], retain[:, None]) == pytest.approx(reading(repeated))


def test_a_resample_that_never_crosses_is_read_at_the_last_scale():
    points = curve((0.0, 60, 1000), (1.0, 20, 900))
    never = np.where(first(900, 1000), 1, 0)[:, None]  # only images that stay right
    assert reading(points, np.ones((100, 1)), never) == pytest.approx([0.2])


@pytest.mark.parametrize("start", [1e-2, 0.5, 1.0, 7.0])
def test_a_walk_spans_the_floors_from_wherever_it_starts(start):
    def measure(scale):
        return first(int(800 * np.exp(-scale)), 1000), first(int(1000 - 60 * scale**2), 1000)

    found = walk(measure, start)
    kept = found.retain.mean(axis=1)
    assert found.scales[0] == 0 and kept[1] >= kept.min() and kept.min() < FLOORS[0]
    assert np.diff(found.scales).min() > 0
    # At every floor the scale is sqrt((1 - keep) / 0.06), so accuracy is known without a walk.
    exact = np.mean([0.8 * np.exp(-np.sqrt((1 - keep) / 0.06)) for keep in FLOORS])
    assert reading(found)[0] == pytest.approx(exact, abs=0.01)


def test_a_walk_without_an_end_is_none():
    right = np.ones(10, bool)
    assert walk(lambda scale: (right, right), 1.0) is None


def test_interval_covers_pools_and_images():
    # Pools alike: images alone spread, as the binomial says. One image a side for certain: pools alone.
    draws = Resamples.draw(4, 100, 1000, times=4000)
    alike = curve((0.0, 60, 1000), (1.0, 60, 900))
    low, high = draws.interval(np.stack([draws.readings(alike)] * 4))
    assert (low, high) == pytest.approx((0.6 - 1.96 * 0.049, 0.6 + 1.96 * 0.049), abs=0.012)
    certain = np.repeat(np.array([[0.1], [0.1], [0.1], [0.5]]), 4000, axis=1)
    low, high = draws.interval(certain)
    assert low == pytest.approx(0.1) and 0.3 <= high <= 0.5


def test_summary_says_nothing_of_a_rule_that_some_pool_does_not_carry_to_the_floors():
    draws = Resamples.draw(2, 100, 1000, times=50)
    fine = curve((0.0, 60, 1000), (1.0, 20, 900))
    found = uneven.compared([fine, None], [fine, fine], draws)
    assert found["forget"] is None and found["difference"] is None and found["curves"][1] is None
    better = curve((0.0, 60, 1000), (1.0, 10, 900))
    found = uneven.compared([better, better], [fine, fine], draws)
    assert found["difference"]["value"] == pytest.approx(-0.05) and found["pools_lower"] == 2
    assert found["difference"]["low"] < -0.05 < found["difference"]["high"] <= 0


def test_recipes_differ_in_every_pool_and_kind():
    found = [recipe for seed in range(3) for _, recipe in uneven.recipes(seed)]
    assert len({recipe.seed for recipe in found}) == len(found) == 3 * (30 + 6 + 4 + 4 + 8 + 2)
    reckless = [recipe.lr for kind, recipe in uneven.recipes(0) if kind.endswith("reckless")]
    clean = [recipe.lr for kind, recipe in uneven.recipes(0) if kind == "clean"]
    assert 4e-3 <= min(reckless) and max(reckless) <= 2e-2 and 5e-4 <= min(clean) and max(clean) <= 2e-3


@pytest.mark.slow
def test_a_small_study_runs_whole_and_again_without_a_question(tmp_path, monkeypatch):
    monkeypatch.setattr(uneven, "KINDS", {"clean": (2, ""), "noise": (1, ""), "wrong": (1, "")})
    monkeypatch.setattr(uneven, "CELLS", {"mixed": {"clean": 2, "noise": 1, "wrong": 1}})
    monkeypatch.setattr(uneven, "RULES", ("uniform", "negmerge", "single"))
    short = [(kind, replace(recipe, epochs=1)) for kind, recipe in uneven.recipes(0)]
    monkeypatch.setattr(uneven, "recipes", lambda seed: iter(short))
    pool, _ = start_pool(uneven.SCENE, tmp_path / "pool")
    rows = uneven.StudiedPool(pool.folder, 0).run()
    assert [(row["cell"], row["rule"]) for row in rows] == [("mixed", rule) for rule in uneven.RULES]

    pool = open_pool(tmp_path / "pool")
    clean, noise = pool.candidate(pool.ids[0]), pool.candidate(pool.ids[-1])
    for name in list(pool.base)[:5]:
        lengths = [(side[name] - pool.base[name]).abs().flatten().sort().values for side in (clean, noise)]
        np.testing.assert_allclose(*lengths, rtol=1e-3, atol=1e-7)  # weights are rounded once more

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pool" / "candidates").iterdir()}
    assert uneven.StudiedPool(pool.folder, 0).run() == rows
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "pool" / "candidates").iterdir()}

    found = uneven.summary([rows, rows], times=100)
    assert json.loads(json.dumps(found)) and [cell["cell"] for cell in found["cells"]] == ["mixed"]
    assert found["cells"][0]["rules"][0]["difference"]["value"] == 0
