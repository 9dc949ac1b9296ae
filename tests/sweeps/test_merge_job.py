"""Merging shard by shard: the files of a merge in one go, whoever merges them, wherever it was stopped."""

import json

import pytest
import torch
from huggingface_hub import save_torch_state_dict

from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.checkpoints.merge_files import merge_files
from negmerge_kit.checkpoints.merge_shards import finish_shards
from negmerge_kit.cli import main
from negmerge_kit.errors import CheckpointError, MismatchError, NegmergeError
from negmerge_kit.merging.rules import RULES
from negmerge_kit.sweeps import merge_job
from negmerge_kit.sweeps.merge_job import merge_sharded
from negmerge_kit.sweeps.process_pool import Processes

SHARDS = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A sharded base and three candidates of it, as the Hub lays them out."""
    home = tmp_path_factory.mktemp("models")
    draw = torch.Generator().manual_seed(0)
    base = {f"layer{k}.weight": torch.randn(64, 50, generator=draw) for k in range(8)}
    base |= {"steps": torch.tensor(7), "layer8.bias": torch.randn(50, generator=draw)}
    shared = {name: torch.randn(value.shape, generator=draw) for name, value in base.items() if name != "steps"}
    for number in range(4):
        model = dict(base)
        if number:
            for name, value in shared.items():
                model[name] = base[name] + 0.1 * (value + torch.randn(value.shape, generator=draw))
        (home / str(number)).mkdir()
        save_torch_state_dict(model, home / str(number), max_shard_size=32_000)
    return [home / str(number) for number in range(4)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_gives_the_bytes_of_one_merge(models, tmp_path, rule):
    base, *candidates = models
    if rule == "task-arithmetic":
        candidates = candidates[:1]
    (tmp_path / "one").mkdir()
    (tmp_path / "shards").mkdir()
    whole = merge_files(base, candidates, out=tmp_path / "one" / "m.safetensors", rule=rule, scale=0.5)
    parts = merge_sharded(
        base, candidates, out=tmp_path / "shards" / "m.safetensors", rule=rule, scale=0.5, executor="serial"
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "shards")
    assert len(contents(tmp_path / "shards")) == SHARDS + 1
    for name in set(whole) - {"seconds", "out"}:
        assert whole[name] == parts[name], name
    assert open_checkpoint(parts["out"])["steps"] == 7


@pytest.mark.slow
def test_processes_merge_alike_and_go_on_with_what_is_missing(models, tmp_path):
    base, *candidates = models
    out = tmp_path / "m.safetensors"
    first = merge_sharded(base, candidates, out=out, executor=Processes(2, "cpu"))
    before = contents(tmp_path)
    gone = next(path for path in tmp_path.iterdir() if path.name.startswith("m-00002"))
    gone.unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("m-*")}
    again = merge_sharded(base, candidates, out=out, executor="serial")
    assert contents(tmp_path) == before
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


def test_a_shard_that_a_worker_wrote_elsewhere_is_missed(models, tmp_path):
    base, *candidates = models
    out = tmp_path / "m.safetensors"
    merge_sharded(base, candidates, out=out, executor="serial")
    (tmp_path / "m-00002-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-00004.*every machine shares"):
        finish_shards(base, out)


def test_another_merge_takes_the_old_index_away_first(models, tmp_path, monkeypatch):
    base, *candidates = models
    out = tmp_path / "m.safetensors"
    merge_sharded(base, candidates, out=out, executor="serial")

    def broken(*arguments, shard, **settings):
        raise RuntimeError("no luck with this one")

    monkeypatch.setattr(merge_job, "merge_shard", broken)
    with pytest.raises(NegmergeError, match="4 of 4 shards failed"):
        merge_sharded(base, candidates, out=out, scale=0.25, executor="serial")
    assert not list(tmp_path.glob("*.index.json"))


def test_what_does_not_fit_is_refused_before_anything_is_written(models, tmp_path):
    base, first, *_ = models
    with pytest.raises(MismatchError):
        merge_sharded(base, [first, _other(tmp_path)], out=tmp_path / "m.safetensors", executor="serial")
    assert not list(tmp_path.glob("m-*"))


def _other(folder):
    (folder / "other").mkdir()
    save_torch_state_dict({"strange": torch.ones(3)}, folder / "other")
    return folder / "other"


def test_records_hold_the_inputs(models, tmp_path):
    base, *candidates = models
    found = merge_sharded(base, candidates, out=tmp_path / "m.safetensors", executor="serial", agreement=0.6)
    record = open_checkpoint(found["out"]).metadata
    assert record["params"]["agreement"] == 0.6 and len(record["inputs"]["others"]) == 3
    assert json.dumps(record)


@pytest.mark.slow
def test_the_merge_verb_spreads_shards_over_workers(models, tmp_path, capsys):
    words = ["merge", *map(str, models), "--json", "--out"]
    assert main([*words, str(tmp_path / "a.safetensors"), "--executor", "process", "--workers", "1"]) == 0
    spread = json.loads(capsys.readouterr().out)
    assert main([*words, str(tmp_path / "b.safetensors")]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert {name: whole[name] for name in set(whole) - {"out", "seconds"}} == {
        name: spread[name] for name in set(spread) - {"out", "seconds"}
    }
    one, two = (sorted(tmp_path.glob(f"{name}-*.safetensors")) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two] and len(one) == SHARDS
    assert main([*words, str(tmp_path / "c.safetensors"), "--executor", "process", "--nonfinite", "pass"]) == 2
    assert "leave out" in capsys.readouterr().err
