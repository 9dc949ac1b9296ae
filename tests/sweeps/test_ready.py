"""A ready pool: nothing is made twice, what is missing is made and told, a busy pool is waited for."""

import pytest

from negmerge_kit.data.decoded_cache import PLACE
from negmerge_kit.errors import ParameterError, PoolBusyError, PoolError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.sweeps import ready
from negmerge_kit.sweeps.ready import ready_pool
from negmerge_kit.training.recipe import Recipe


def recipes_of(folder):
    return [Recipe.from_json(entry.recipe) for entry in open_pool(folder).entries]


def test_finished_candidates_are_not_made_again(own_pool):
    told, before = [], (own_pool / "pool.json").read_bytes()
    pool = ready_pool("tiny:digits", recipes_of(own_pool), folder=own_pool, tell=told.append)
    assert len(pool.ids) == 3 and told == [] and (own_pool / "pool.json").read_bytes() == before


@pytest.mark.slow
def test_what_is_missing_is_made_and_told_after_waiting_for_another_process(own_pool, monkeypatch):
    turns = iter([PoolBusyError("busy"), PoolBusyError("busy"), None])
    real = ready.run_sweep

    def busy_at_first(*args, **kwargs):
        if error := next(turns):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(ready, "run_sweep", busy_at_first)
    monkeypatch.setattr(ready, "POLL_SECONDS", 0.0)
    told = []
    pool = ready_pool("tiny:digits", [Recipe(lr=1e-3, epochs=1)], folder=own_pool, tell=told.append, device="cpu")
    assert len(pool.ids) == 4 and len(told) == 2
    assert told[0].startswith("another process") and told[1].startswith("candidate 1 of 1: lr 1e-3 · 1 epoch · ")


def test_a_candidate_that_cannot_be_trained_is_an_error_that_names_it(own_pool):
    with pytest.raises(PoolError, match=r"lr 1e30 .* failed: .* lower the learning rate"):
        ready_pool("tiny:digits", [Recipe(lr=1e30, epochs=1)], folder=own_pool, device="cpu")


def test_a_part_lies_apart_from_the_shared_pool(tmp_path, monkeypatch):
    monkeypatch.setenv(PLACE, str(tmp_path))
    shared, part = ready_pool("tiny:digits", []), ready_pool("tiny:digits", [], part="mine")
    assert part.folder.parent == shared.folder.parent and part.folder.name == f"{shared.folder.name}-mine"
    assert shared.ids == part.ids == []


def test_a_scene_of_ones_own_needs_a_folder(tmp_path):
    (tmp_path / "own.toml").write_text('model = "tiny"\nforget = "digits"\nretain = "shapes"')
    with pytest.raises(ParameterError, match="needs a folder"):
        ready_pool(tmp_path / "own.toml", [])
