"""Sweeps: finished work stays, failures are told, a killed sweep goes on, two starts share one pool."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from negmerge_kit.errors import ParameterError, PoolError, SceneError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import writing
from negmerge_kit.sweeps.background import BackgroundSweep
from negmerge_kit.sweeps.finetune_job import FinetuneJob, missing_jobs, own_scores
from negmerge_kit.sweeps.job import SweepStopped
from negmerge_kit.sweeps.pool_setup import default_folder, start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.workbench import Workbench

FAST = Recipe(lr=2e-3, epochs=1, seed=7)


def test_finished_work_is_not_done_again(tiny_pool):
    pool = open_pool(tiny_pool)
    recipes = [Recipe.from_json(recipe) for recipe in pool.recipes.values()]
    assert missing_jobs(pool, recipes) == []
    assert [job.recipe for job in missing_jobs(pool, [*recipes, FAST])] == [FAST]


def test_a_list_that_is_out_of_date_trains_nothing_again(own_pool):
    pool = open_pool(own_pool)
    stale = replace(pool, entries=pool.entries[:-1])  # as it was before another process recorded the last one
    jobs = missing_jobs(stale, [Recipe.from_json(recipe) for recipe in pool.recipes.values()])
    assert [job.id_in(pool) for job in jobs] == pool.ids[-1:]
    before = (own_pool / "pool.json").read_bytes()
    assert list(run_sweep(jobs, store=stale)) == []
    assert (own_pool / "pool.json").read_bytes() == before


@pytest.mark.slow
def test_own_scores_are_those_of_a_search_over_one_candidate(bench):
    for entry in bench.pool.entries:
        assert entry.scores == own_scores(bench, entry.id)
        search = bench.search(bench.choose([entry.id]))
        assert entry.scores["status"] == "ok"
        assert (entry.scores["scale"], entry.scores["forget"]) == (search.best.scale, search.best.forget.json())
        assert entry.scores["kept"] >= 0.95
        assert len(entry.losses) > 10 and entry.losses[-1] < entry.losses[0]


@pytest.mark.slow
def test_a_candidates_own_search_tells_its_scales(own_pool):
    pool = open_pool(own_pool)
    steps = []
    (outcome,) = run_sweep([FinetuneJob(pool.folder, FAST, "cpu")], store=pool, on_step=lambda job, p: steps.append(p))
    scoring = [step for step in steps if step.message == "scoring"]
    assert outcome.failure is None and steps == [*steps[: -len(scoring)], *scoring]
    assert [step.step for step in scoring] == list(range(1, scoring[-1].total + 1))
    assert scoring[0].total == 21 and scoring[-1].total in (21, 41, 42)
    # Training is a part of the job, and the search goes on from there to its end.
    trained = steps[-len(scoring) - 1].fraction
    assert 0.1 < trained < 0.9 and trained < scoring[0].fraction < scoring[-1].fraction == pytest.approx(1.0)


@pytest.mark.slow
def test_a_failing_job_is_an_outcome_and_the_rest_go_on(own_pool):
    pool = open_pool(own_pool)
    doomed = FinetuneJob(pool.folder, Recipe(lr=1e30, epochs=30, warmup=0, clip_norm=1e30), "cpu")
    outcomes = list(run_sweep([doomed, FinetuneJob(pool.folder, FAST, "cpu")], store=pool))
    assert "lower the learning rate" in outcomes[0].failure and "Traceback" not in outcomes[0].failure
    assert outcomes[0].candidate is None and not outcomes[0].is_bug
    assert outcomes[1].failure is None
    assert open_pool(own_pool).ids == [*pool.ids, outcomes[1].candidate.id]


@pytest.mark.slow
def test_stopping_drops_the_running_job_only(own_pool):
    pool = open_pool(own_pool)

    def stop(job, step):
        raise SweepStopped

    assert list(run_sweep([FinetuneJob(pool.folder, FAST, "cpu")], store=pool, on_step=stop)) == []
    assert open_pool(own_pool) == pool and pool.verify() == []


@pytest.mark.slow
def test_background_sweep_finishes_and_mends_a_damaged_candidate(own_pool):
    pool = open_pool(own_pool)
    (own_pool / pool.entries[1].file).write_bytes(b"not a checkpoint")
    recipes = [Recipe.from_json(recipe) for recipe in pool.recipes.values()]
    status = BackgroundSweep(pool, recipes, device="cpu").start().wait()
    assert (status.done, status.total, status.error, status.finished) == (3, 3, None, True)
    mended = open_pool(own_pool)
    assert set(mended.ids) == set(pool.ids) and mended.verify() == []


@pytest.mark.slow
def test_two_starts_on_one_folder_share_it(own_pool):
    pool = open_pool(own_pool)
    recipes = [*(Recipe.from_json(recipe) for recipe in pool.recipes.values()), FAST]
    sweep = BackgroundSweep(pool, recipes, device="cpu")
    with writing(own_pool):
        sweep.start()
        until = time.monotonic() + 20
        while not sweep.status().waiting and time.monotonic() < until:
            time.sleep(0.05)
        assert sweep.status().waiting and sweep.status().done == 3
    # The other process is gone: this one takes over.
    assert sweep.wait(60).done == 4 and open_pool(own_pool).verify() == []


@pytest.mark.slow
def test_a_stopped_background_sweep_ends_soon(own_pool):
    pool = open_pool(own_pool)
    sweep = BackgroundSweep(pool, [Recipe(lr=1e-3, epochs=500)], device="cpu").start()
    until = time.monotonic() + 30
    while not sweep.status().step and time.monotonic() < until:
        time.sleep(0.02)
    assert sweep.status().loss is not None and sweep.status().recipe_label
    sweep.stop()
    assert sweep.status().finished and open_pool(own_pool) == pool


@pytest.mark.slow
def test_an_interrupted_build_keeps_what_is_finished(tmp_path):
    folder = tmp_path / "pool"
    command = [
        sys.executable,
        "-m",
        "negmerge_kit.cli",
        "pool",
        "build",
        "tiny",
        "--out",
        str(folder),
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as build:
        until = time.monotonic() + 90
        while time.monotonic() < until and build.poll() is None:
            if (folder / "pool.json").exists() and open_pool(folder).ids:
                break
            time.sleep(0.1)
        build.send_signal(signal.SIGINT)
        code = build.wait(30)
    assert code == 130
    pool = open_pool(folder)
    assert 1 <= len(pool.ids) < 8 and pool.verify() == []
    left = [job for job in missing_jobs(pool, _tiny_grid())]
    assert len(left) == 8 - len(pool.ids)
    assert not list(folder.rglob("*.part"))


def _tiny_grid():
    from negmerge_kit.training.recipe import grid

    return grid("tiny")


def test_the_default_folder_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("NEGMERGE_CACHE", raising=False)  # another folder’s tests may have set it for the session
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    scene = {"name": "tiny:digits"}
    if sys.platform == "linux":
        assert default_folder(scene).is_relative_to(tmp_path)
    assert default_folder(scene) != default_folder({**scene, "mode": "linear"})


def test_a_cache_that_cannot_be_written_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("NEGMERGE_CACHE", "/proc/nowhere")
    with pytest.raises(PoolError, match="may be written"):
        start_pool("tiny:digits")


def test_a_damaged_base_is_written_again_and_its_bytes_are_kept(own_pool):
    path = own_pool / "base.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    pool, told = start_pool("tiny:digits", own_pool)
    assert len(told) == 1 and path.name in told[0]
    assert path.read_bytes() == whole and (own_pool / "base.damaged").read_bytes() == whole[:1000]
    assert pool.verify() == []


def test_a_base_that_cannot_be_made_again_says_what_to_delete(own_pool):
    record = json.loads((own_pool / "pool.json").read_text())
    record["base"]["sha256"] = "0" * 64
    (own_pool / "pool.json").write_text(json.dumps(record))
    with pytest.raises(PoolError, match="delete"):
        start_pool("tiny:digits", own_pool)


def test_another_scenes_folder_is_refused(own_pool):
    with pytest.raises(PoolError, match="choose another folder"):
        start_pool("tiny:letters", own_pool)


def test_another_scenes_folder_is_refused_while_it_is_being_filled(own_pool):
    with writing(own_pool):
        assert start_pool("tiny:digits", own_pool) == (open_pool(own_pool), [])
        with pytest.raises(PoolError, match="choose another folder"):
            start_pool("tiny:letters", own_pool)


def test_from_scratch_keeps_out_of_the_cache_and_goes_on_where_it_was(tmp_path, monkeypatch):
    from negmerge_kit.models.tiny_clip import tiny_weights

    calls = []

    def pretrain():
        calls.append(1)
        weights = tiny_weights()
        return {**weights, "visual.proj": weights["visual.proj"] + 0.01}

    with pytest.raises(ParameterError, match="--out"):
        start_pool("tiny:digits", pretrain=pretrain)
    with pytest.raises(SceneError):
        start_pool("tiny:nonsense", tmp_path / "p", pretrain=pretrain)
    assert not calls
    first, _ = start_pool("tiny:digits", tmp_path / "p", pretrain=pretrain)
    again, _ = start_pool("tiny:digits", tmp_path / "p", pretrain=pretrain)
    assert len(calls) == 1 and first == again
    shipped, _ = start_pool("tiny:digits", tmp_path / "q")
    assert shipped.base_file != first.base_file


@pytest.mark.slow
def test_a_folder_that_fails_stops_the_sweep_with_one_sentence(own_pool):
    shutil.rmtree(own_pool / "candidates")
    (own_pool / "candidates").write_text("")
    pool = open_pool(own_pool)
    with pytest.raises(PoolError, match="candidates"):
        list(run_sweep([FinetuneJob(own_pool, FAST, "cpu")] * 3, store=pool))


def test_unknown_families_list_the_known():
    with pytest.raises(SceneError, match="digits"):
        start_pool("tiny:cats")


@pytest.mark.slow
def test_any_family_can_be_forgotten(tmp_path):
    pool, _ = start_pool("tiny:arrows", tmp_path / "arrows")
    outcome = next(iter(run_sweep(missing_jobs(pool, [Recipe(lr=2e-3, epochs=1)], device="cpu"), store=pool)))
    assert outcome.failure is None
    bench = Workbench(open_pool(tmp_path / "arrows"), device="cpu")
    assert bench.scene.images("val").forget.name == "arrows"
    assert "digits" in {images.name for images in bench.scene.images("val").retain}
