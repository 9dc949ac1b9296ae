"""Before anything is trained: a base that does not know the forget set is refused, a trained one says how it fits."""

import json
import shutil

import pytest
from PIL import Image

from negmerge_kit.cli import main
from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.errors import UnknownSetError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.sweeps.finetune_job import FinetuneJob, missing_jobs
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.base_knowledge import Fit, check_known, fit_of, require_known

GRID = "[recipe]\nlr = 1e-3\nepochs = 1\n"
RECIPE = Recipe(lr=1e-3, epochs=1)


@pytest.fixture
def scene_file(tmp_path, monkeypatch):
    """Shapes under each other's names: the base knows the pictures, but not these words for them."""
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    images, names = family_images("shapes", "train").take(300), FAMILIES["shapes"].classes
    for k, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        home = tmp_path / "misnamed" / names[(label + 3) % len(names)].replace(" ", "_")
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(home / f"{k:04d}.png")
    (tmp_path / "grid.toml").write_text(GRID)
    path = tmp_path / "scene.toml"
    path.write_text('model = "tiny"\nforget = "folder:misnamed"\nretain = "colours"')
    return path


@pytest.mark.parametrize(
    ("correct", "n", "classes", "known"),
    [
        (4, 60, 5, False),  # the case: 6.7 % where chance is 20 %
        (14, 60, 5, False),  # 23 %, and 14.4-35.4 % holds chance
        (20, 60, 5, True),  # 33 %, and 22.7-45.9 % does not
        (3, 10, 10, True),  # 30 %, and 10.8 % is above 10 %
        (2, 10, 10, False),
    ],
)
def test_a_set_is_known_if_the_interval_is_above_chance(correct, n, classes, known):
    score = Accuracy(correct, n, "val")
    assert (score.interval[0] > 1 / classes) == known
    if known:
        return check_known(score, classes, "faces")
    with pytest.raises(UnknownSetError, match=f"{100 * score.value:.1f} % of {n} validation .* {100 / classes:.1f} %"):
        check_known(score, classes, "faces")


def test_the_embedded_base_knows_the_digits(tmp_path):
    pool, _ = start_pool("tiny:digits", tmp_path / "pool", device="cpu")
    assert require_known(pool, device="cpu").value > 0.7


@pytest.mark.slow
def test_the_library_trains_nothing_that_is_not_known(scene_file, tmp_path):
    pool, _ = start_pool(open_scene(scene_file), tmp_path / "pool", device="cpu")
    with pytest.raises(UnknownSetError, match=r"does not know misnamed: it gets .* anyway=True"):
        require_known(pool, device="cpu")
    (outcome,) = run_sweep(missing_jobs(pool, [RECIPE], device="cpu"), store=pool)
    assert "does not know misnamed" in outcome.failure and not outcome.is_bug
    assert not list(pool.folder.glob("candidates/*")), "no step was taken"
    assert FinetuneJob(pool.folder, RECIPE, "cpu", anyway=True).run().scores


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["sweep", "forget"])
def test_the_command_line_says_so_before_training_and_goes_on_if_asked(verb, scene_file, tmp_path, capfd):
    grid, out = str(tmp_path / "grid.toml"), tmp_path / "out"
    words = (
        ["sweep", "--scene", str(scene_file)]
        if verb == "sweep"
        else ["forget", "--model", "tiny", "--forget", f"folder:{tmp_path / 'misnamed'}", "--retain", "colours"]
    )
    words += ["--grid", grid, "--out", str(out), "--device", "cpu"]
    assert main(words) == 2
    told = capfd.readouterr().err
    assert "the base does not know misnamed: it gets" in told and "--anyway" in told and "Traceback" not in told
    pool = out if verb == "sweep" else out / "pool"
    assert open_pool(pool).ids == []
    assert main([*words, "--anyway"]) in ((0,) if verb == "sweep" else (0, 2))
    assert "warning: the base does not know misnamed" in capfd.readouterr().err
    assert len(open_pool(pool).ids) == 1


@pytest.mark.slow
def test_a_trained_classifier_says_what_it_scores_on_seen_and_unseen_images(classifier_pool, tmp_path, capfd):
    fit = fit_of(open_pool(classifier_pool), device="cpu")
    assert fit.seen.n == 1200 and fit.unseen.n == 240 and fit.seen.split == "train"
    assert fit.seen.value == 1.0 and fit.unseen.value > 0.9 and "Far from" not in fit.sentence()
    empty = shutil.copytree(classifier_pool, tmp_path / "pool")
    record = json.loads((empty / "pool.json").read_text())
    (empty / "pool.json").write_text(json.dumps({**record, "candidates": []}))
    (tmp_path / "grid.toml").write_text('[recipe]\nlr = 0.01\nepochs = 1\nbatch_size = 60\noptimizer = "sgd"\n')
    words = ["sweep", "--scene", "tiny-classifier", "--grid", str(tmp_path / "grid.toml"), "--out", str(empty)]
    assert main([*words, "--device", "cpu"]) == 0
    assert fit.sentence() in capfd.readouterr().err


def test_a_base_that_has_not_fitted_is_warned_of():
    assert "Far from 100 %" in Fit(Accuracy(94, 100, "train"), Accuracy(40, 50, "val")).sentence()
    assert "Far from 100 %" not in Fit(Accuracy(95, 100, "train"), Accuracy(40, 50, "val")).sentence()
