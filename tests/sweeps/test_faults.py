"""What may go wrong in a sweep: nothing finished is lost, nothing stale is used, the user is told in a sentence."""

import errno
import json
import os
import stat
from dataclasses import replace

import pytest
import torch

from negmerge_kit.checkpoints import atomic, open_checkpoint, save_checkpoint, sha256_file
from negmerge_kit.errors import PoolError, SceneError
from negmerge_kit.pools.pool import RECORD, open_pool
from negmerge_kit.pools.pool_writer import candidate_id, record_candidate
from negmerge_kit.pools.unfinished import note_written
from negmerge_kit.sweeps import finetune_job as sweep_jobs
from negmerge_kit.sweeps.finetune_job import FinetuneJob, missing_jobs, pool_order
from negmerge_kit.sweeps.job import SweepStopped, attempt
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.workbench import Workbench

FAST = Recipe(lr=2e-3, epochs=1, seed=7)
OTHER = Recipe(lr=1e-3, epochs=1, seed=8)


def edit_record(folder, change):
    record = json.loads((folder / RECORD).read_text())
    change(record)
    (folder / RECORD).write_text(json.dumps(record))


@pytest.mark.slow
def test_a_full_disk_stops_with_a_sentence_and_keeps_what_is_finished(own_pool, monkeypatch):
    pool = open_pool(own_pool)
    jobs = missing_jobs(pool, [FAST, Recipe(lr=1e-3, epochs=1, seed=8)], device="cpu")
    fsync = os.fsync

    def full(handle):  # the second candidate finds no space
        if stat.S_ISREG(os.fstat(handle).st_mode) and len(open_pool(own_pool).ids) > len(pool.ids):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(PoolError, match="No space left on device.*free some space"):
        list(run_sweep(jobs, store=pool, on_step=lambda job, progress: None))
    monkeypatch.undo()
    kept = open_pool(own_pool)
    assert len(kept.ids) == len(pool.ids) + 1 and kept.verify() == []
    assert not list(own_pool.rglob("*.part"))
    assert [outcome.failure for outcome in run_sweep(missing_jobs(kept, [FAST, jobs[1].recipe]), store=kept)] == [None]


@pytest.mark.slow
def test_an_interrupted_fine_tuning_goes_on_to_the_same_bits(own_pool):
    pool = open_pool(own_pool)
    job = FinetuneJob(own_pool, FAST, "cpu", Execution(save_seconds=0))
    seen = []

    def stop(of, progress):
        seen.append(progress.step)
        if progress.step == 5:
            raise SweepStopped

    assert list(run_sweep([job], store=pool, on_step=stop)) == []
    state = own_pool / "unfinished" / f"{candidate_id(pool, FAST.json())}.safetensors"
    assert state.exists() and "losses" in open_checkpoint(state).metadata
    (resumed,) = run_sweep([job], store=pool)
    assert not (own_pool / "unfinished").exists()
    assert len(resumed.candidate.losses) == len(resumed.candidate.rates) > 5

    (own_pool / resumed.candidate.file).unlink()
    edit_record(own_pool, lambda record: record["candidates"].pop())
    (whole,) = run_sweep([FinetuneJob(own_pool, FAST, "cpu")], store=pool)
    assert whole.candidate.sha256 == resumed.candidate.sha256
    assert whole.candidate.losses == resumed.candidate.losses


@pytest.mark.slow
def test_a_candidate_that_was_written_but_not_recorded_is_not_trained_again(own_pool):
    pool = open_pool(own_pool)
    written = FinetuneJob(own_pool, FAST, "cpu").run()  # the driver dies before it records this
    (own_pool / "candidates" / ".half.safetensors.x.part").write_bytes(b"half")
    steps = []
    (outcome,) = run_sweep(missing_jobs(pool, [FAST]), store=pool, on_step=lambda job, step: steps.append(step))
    assert {step.message for step in steps} == {"scoring"} and outcome.candidate == written
    assert open_pool(own_pool).ids == [*pool.ids, written.id]
    assert not (own_pool / "unfinished").exists() and not list(own_pool.rglob("*.part"))


@pytest.mark.slow
def test_a_note_of_a_damaged_file_is_not_believed(own_pool):
    pool = open_pool(own_pool)
    written = FinetuneJob(own_pool, FAST, "cpu").run()
    (own_pool / written.file).write_bytes(b"something else")
    steps = []
    (outcome,) = run_sweep(missing_jobs(pool, [FAST]), store=pool, on_step=lambda job, step: steps.append(step))
    assert steps and outcome.candidate.sha256 == written.sha256
    assert open_pool(own_pool).verify() == []


@pytest.mark.slow
def test_a_candidate_that_answers_nan_fails_alone_and_may_be_trained_again(own_pool):
    pool = open_pool(own_pool)
    written = FinetuneJob(own_pool, FAST, "cpu").run()  # its driver dies before it records this
    path = own_pool / written.file
    wild = {name: torch.full_like(tensor, 1e38) for name, tensor in open_checkpoint(path).items()}
    save_checkpoint(path, wild.items(), like=wild)
    note_written(pool, replace(written, sha256=sha256_file(path)))
    sweep_jobs.open_workbench.cache_clear()

    first, second = run_sweep([FinetuneJob(own_pool, FAST, "cpu"), FinetuneJob(own_pool, OTHER, "cpu")], store=pool)
    assert "NaN or infinity" in first.failure and not first.is_bug and not first.stops
    assert open_pool(own_pool).ids == [*pool.ids, second.candidate.id]
    assert not path.exists() and not (own_pool / "unfinished").exists()
    (again,) = run_sweep([FinetuneJob(own_pool, FAST, "cpu")], store=pool)
    assert again.candidate.sha256 == written.sha256


@pytest.mark.slow
def test_a_loss_that_is_no_number_leaves_nothing_to_go_on_from(own_pool):
    wild = Recipe(lr=1e30, epochs=2, warmup=0, clip_norm=1e30)
    outcome = attempt(FinetuneJob(own_pool, wild, "cpu", Execution(save_seconds=0)), lambda progress: None)
    assert "lower the learning rate" in outcome.failure and not outcome.is_bug and not outcome.stops
    assert not list(own_pool.glob("unfinished/*"))


def test_labels_in_another_order_are_refused_everywhere(own_pool):
    def relabel(record):
        train = next(images for images in record["scene"]["sets"] if images["split"] == "train")
        train["fingerprint"] = "0" * len(train["fingerprint"])

    edit_record(own_pool, relabel)
    with pytest.raises(SceneError, match=r"digits \(train\)"):
        start_pool("tiny:digits", own_pool)
    sweep_jobs.open_workbench.cache_clear()
    outcome = attempt(FinetuneJob(own_pool, FAST, "cpu"), lambda progress: None)
    assert "digits (train)" in outcome.failure and not outcome.is_bug
    # Its candidates have other ids, too: none of the old files would be taken for one of the new.
    pool = open_pool(own_pool)
    assert not set(pool_order(pool, [Recipe.from_json(r) for r in pool.recipes.values()])) & set(pool.ids)


@pytest.mark.parametrize("how", ["other base", "other width"])
def test_a_head_built_for_another_model_is_refused(own_pool, how):
    pool = open_pool(own_pool)
    heads, record = dict(pool.heads), dict(pool.heads.metadata)
    if how == "other base":
        record = {"base_sha256": "f" * 64}
    else:
        heads["digits"] = torch.zeros(10, 512)
    path = own_pool / pool.heads_file.file
    save_checkpoint(own_pool / "new.safetensors", heads.items(), like=heads, metadata=record).replace(path)
    edit_record(own_pool, lambda stored: stored["heads"].update(sha256=sha256_file(path)))
    with pytest.raises((PoolError, SceneError), match="built for another model"):
        Workbench(open_pool(own_pool), device="cpu")
    sweep_jobs.open_workbench.cache_clear()
    outcome = attempt(FinetuneJob(own_pool, FAST, "cpu"), lambda progress: None)
    assert "built for another model" in outcome.failure and not outcome.is_bug


def test_the_pools_order_is_the_grids_whoever_is_fastest(own_pool):
    pool = open_pool(own_pool)
    order, entries = pool.ids, pool.entries
    edit_record(own_pool, lambda record: record.update(candidates=[]))
    for entry in (entries[2], entries[0], entries[1]):
        record_candidate(pool, entry, order=order)
    assert open_pool(own_pool).ids == order
    record_candidate(pool, entries[1], order=order)
    assert open_pool(own_pool).entries == entries


def test_a_recipe_that_stands_twice_in_a_grid_is_one_job(own_pool):
    assert len(missing_jobs(open_pool(own_pool), [FAST, FAST])) == 1


def test_another_pools_scene_starts_from_its_base(own_pool, tmp_path):
    changed = dict(open_pool(own_pool).base)
    changed["visual.proj"] = changed["visual.proj"] + 0.01
    first, _ = start_pool("tiny:digits", tmp_path / "first", pretrain=lambda: changed)
    second, _ = start_pool(tmp_path / "first", tmp_path / "second")
    assert (second.base_file, second.scene) == (first.base_file, first.scene)
    assert first.heads["digits"].equal(second.heads["digits"])
