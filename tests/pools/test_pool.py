"""A pool on disk: nothing finished is lost, nothing stale or foreign is read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.errors import CheckpointError, MismatchError, PoolBusyError, PoolError
from negmerge_kit.pools.pool import Candidate, Pool, StoredFile, open_pool
from negmerge_kit.pools.pool_writer import (
    candidate_id,
    create_pool,
    record_candidate,
    save_candidate,
    set_aside_damaged,
    writing,
)
from negmerge_kit.pools.unfinished import clear_up


def _edit(folder, change):
    record = json.loads((folder / "pool.json").read_text())
    change(record)
    (folder / "pool.json").write_text(json.dumps(record))


def test_what_is_written_is_read(tiny_pool):
    pool = open_pool(tiny_pool)
    assert len(pool.ids) == len(pool.candidates) == len(pool.recipes) == len(pool.scores) == 3
    assert pool.verify() == []
    for weights in pool.candidates:
        assert set(weights) == set(pool.base)
    assert pool.heads["digits"].shape[0] == 10


def test_the_id_depends_on_base_data_and_recipe(tiny_pool):
    pool = open_pool(tiny_pool)
    recipe = pool.entries[0].recipe
    assert candidate_id(pool, recipe) == pool.ids[0]
    assert candidate_id(pool, {**recipe, "epochs": 99}) not in pool.ids


def test_recording_again_replaces_and_keeps_the_order(own_pool):
    pool = open_pool(own_pool)
    items = pool.candidates[1].items()
    entry = save_candidate(pool, pool.entries[1].recipe, items)
    assert entry.id == pool.ids[1]
    assert record_candidate(pool, entry).ids == pool.ids


def test_a_foreign_candidate_is_not_written(own_pool):
    pool = open_pool(own_pool)
    items = {**dict(pool.candidates[0].items())}
    items.pop("visual.proj")
    with pytest.raises(MismatchError, match="visual.proj"):
        save_candidate(pool, {"lr": 1, "epochs": 1}, items.items())
    assert open_pool(own_pool) == pool
    assert sorted(p.name for p in (own_pool / "candidates").iterdir()) == sorted(f"{id}.safetensors" for id in pool.ids)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "pool.json").unlink(), "negmerge pool build tiny"),
        (lambda folder: (folder / "pool.json").write_text('{"schema": 1'), "cannot be read"),
        (lambda folder: (folder / "pool.json").write_text("[]"), "by its content"),
        (lambda folder: _edit(folder, lambda record: record.update(schema=99)), "schema 99"),
        (lambda folder: _edit(folder, lambda record: record.pop("base")), "base"),
        (lambda folder: _edit(folder, lambda record: record["scene"].pop("name")), "name"),
        (lambda folder: _edit(folder, lambda record: record["candidates"].append(record["candidates"][0])), "one id"),
        (
            lambda folder: _edit(folder, lambda record: record["candidates"][0].update(file="../../x")),
            "outside the pool",
        ),
        (lambda folder: _edit(folder, lambda record: record["candidates"][0].update(file="/etc/passwd")), "outside"),
    ],
)
def test_records_that_cannot_be_trusted(own_pool, damage, says):
    damage(own_pool)
    with pytest.raises(PoolError, match=says):
        open_pool(own_pool)


def test_damaged_candidates_are_set_aside_with_their_bytes(own_pool):
    pool = open_pool(own_pool)
    truncated, missing = (own_pool / pool.entries[k].file for k in (0, 1))
    kept = truncated.read_bytes()[:1000]
    truncated.write_bytes(kept)
    missing.unlink()
    assert len(pool.verify()) == 2
    left, told = set_aside_damaged(pool)
    assert left.ids == pool.ids[2:] == open_pool(own_pool).ids
    assert len(told) == 2 and truncated.name in told[0] and "missing" in told[1]
    assert truncated.with_suffix(".damaged").read_bytes() == kept


def test_another_scene_is_not_mixed_in(own_pool):
    pool = open_pool(own_pool)
    weights = dict(pool.base.items())
    with pytest.raises(PoolError, match="choose another folder"):
        create_pool(own_pool, {**pool.scene, "name": "tiny:letters"}, weights, {})


@pytest.mark.slow
def test_one_writer_at_a_time_across_processes(own_pool):
    code = (
        "import sys\nfrom negmerge_kit.pools.pool_writer import writing\n"
        "with writing(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(own_pool)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(PoolBusyError, match="another process"), writing(own_pool):
            pass
        other.kill()
        other.wait()
        with writing(own_pool):  # a killed writer holds nothing
            pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PoolError, match="may be written"), writing(tmp_path / "file" / "pool"):
        pass


def test_atomic_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(CheckpointError, match="Nothing was changed"), atomic_file(path) as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(CheckpointError, match="folder that exists"), atomic_file(tmp_path / "no" / "b"):
        pass


def test_clearing_up_takes_the_pools_own_half_written_files_only(own_pool):
    own = [".pool.json.x.part", ".base.safetensors.x.part", "candidates/.c.safetensors.x.part"]
    others = [".unlearned.safetensors.x.part", ".retrained.safetensors.x.part"]
    for name in [*own, *others]:
        (own_pool / name).write_bytes(b"half")
    clear_up(open_pool(own_pool))
    assert {path.name for path in own_pool.rglob("*.part")} == set(others)


def test_a_pool_shows_itself_in_two_lines():
    scene = {"name": "tiny:digits", "forget": "digits", "retain": ["shapes", "letters"]}
    stored = StoredFile("base.safetensors", "")
    entry = Candidate("a", "a.safetensors", "", {}, losses=(0.5,) * 1000)
    assert repr(Pool(Path("runs/p"), scene, stored, stored, (entry,) * 2)) == (
        "<Pool runs/p: 2 candidates of tiny:digits\n forgetting digits, retaining shapes, letters>"
    )
