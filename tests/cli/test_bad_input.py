"""What can be wrong with files, through the command line: one line, exit code 2, nothing written or touched."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint, sha256_file
from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.cli import main
from negmerge_kit.merging import merge, unlearn
from tests.checkpoints.files import sharded, write_raw
from tests.merging.models import make

ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.fixture
def folder(tmp_path):
    """A base, three candidates and a sharded copy of the base and of the first candidate."""
    base, candidates = make(3, seed=6)
    for name, weights in zip("base a b c".split(), (base, *candidates), strict=True):
        save_checkpoint(tmp_path / f"{name}.safetensors", weights.items(), like=weights)
    for name, weights in (("sharded", base), ("shards", candidates[0])):
        (tmp_path / name).mkdir()
        sharded(tmp_path / name, weights, 3)
    return tmp_path


def state(folder):
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def refused(capsys, folder, *words, says):
    """The call is refused with one line that says so, and no file has come, gone or changed."""
    before = state(folder)
    code = main([str(word) for word in words])
    told = capsys.readouterr()
    assert code == 2 and told.out == "", told
    assert says in told.err and told.err.count("\n") == 1 and "Traceback" not in told.err, told.err
    assert state(folder) == before


def files(folder, *names):
    return [folder / f"{name}.safetensors" for name in names]


def shard(folder, number):
    return folder / "shards" / f"model-{number:05d}-of-00003.safetensors"


def truncate_shard(folder):
    path = shard(folder, 2)
    path.write_bytes(path.read_bytes()[:-1])


def lose_shard(folder):
    shard(folder, 3).unlink()


def misdirect(folder):
    index = folder / "shards" / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["a.weight"] = shard(folder, 2).name
    index.write_text(json.dumps(table))


def repeat_tensor(folder):
    shutil.copy(shard(folder, 1), shard(folder, 2))


def repeat_key(folder):
    write_raw(folder / "b.safetensors", f'{{"w":{ENTRY},"w":{ENTRY}}}', b"1234")


def changed(folder, change):
    weights = dict(open_checkpoint(folder / "b.safetensors"))
    change(weights)
    save_checkpoint(folder / "b.safetensors", weights.items(), like=weights)


def put(value):
    return lambda folder: changed(folder, lambda weights: weights["d.conv"].view(-1).__setitem__(3, value))


def pickled(folder):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "executed"),))

    (folder / "b.safetensors").write_bytes(pickle.dumps(Evil()))


SHARDS = ["shards", "b.safetensors"]
DAMAGES = {
    "truncated shard": (truncate_shard, SHARDS, "truncated"),
    "missing shard": (lose_shard, SHARDS, "does not exist"),
    "wrong index": (misdirect, SHARDS, "does not fit its shards"),
    "a tensor in two shards": (repeat_tensor, SHARDS, "is in both"),
    "duplicate keys": (repeat_key, ["b.safetensors"], "occurs twice"),
    "NaN": (put(float("nan")), ["a.safetensors", "b.safetensors"], "d.conv"),
    "infinity": (put(float("inf")), ["a.safetensors", "b.safetensors"], "d.conv"),
    "missing key": (lambda f: changed(f, lambda w: w.pop("g")), ["b.safetensors"], "base.safetensors only (g)"),
    "extra key": (lambda f: changed(f, lambda w: w.update(x=torch.ones(1))), ["b.safetensors"], "safetensors only (x)"),
    "another shape": (lambda f: changed(f, lambda w: w.update(c=torch.ones(2))), ["b.safetensors"], "shape [2]"),
    "another dtype": (lambda f: changed(f, lambda w: w.update(c=torch.tensor(1))), ["b.safetensors"], "int64"),
    "missing file": (lambda f: (f / "b.safetensors").unlink(), ["b.safetensors"], "does not exist"),
    "a picture": (lambda f: (f / "b.safetensors").write_bytes(b"GIF89a" * 20), ["b.safetensors"], "no safetensors"),
    "a pickle": (pickled, ["b.safetensors"], "convert"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("output", ["--out", "--delta-out"])
def test_a_damaged_candidate(capsys, folder, damage, output):
    injure, names, says = DAMAGES[damage]
    injure(folder)
    candidates = [folder / name for name in names]
    refused(
        capsys, folder, "merge", folder / "base.safetensors", *candidates, output, folder / "u.safetensors", says=says
    )
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("NaN", "infinity")])
def test_a_damaged_candidate_has_no_agreement(capsys, folder, damage):
    injure, names, says = DAMAGES[damage]
    injure(folder)
    refused(capsys, folder, "agreement", folder / "base.safetensors", *(folder / name for name in names), says=says)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_passes_when_it_is_let(capsys, folder, value):
    put(value)(folder)
    out = folder / "u.safetensors"
    words = ["merge", *files(folder, "base", "a", "b"), "--rule", "uniform", "--out", out, "--nonfinite", "pass"]
    assert main([str(word) for word in words]) == 0
    found = open_checkpoint(out)["d.conv"].isfinite()
    assert int((~found).sum()) == 1


def test_a_sharded_base_that_fails_leaves_no_shard(capsys, folder):
    put(float("nan"))(folder)
    words = ["merge", folder / "sharded", *files(folder, "a", "b"), "--out", folder / "u.safetensors"]
    refused(capsys, folder, *words, says="d.conv")


def test_no_candidate_the_base_among_them_and_outputs_on_inputs(capsys, folder):
    base, first, second = files(folder, "base", "a", "b")
    out = folder / "u.safetensors"
    copy = shutil.copy(base, folder / "copy.safetensors")
    (folder / "link.safetensors").symlink_to(first)
    for words, says in [
        (["merge", base, "--out", out], "CANDIDATE"),
        (["merge", base, base, first, "--out", out], "base itself"),
        (["merge", base, first, copy, "--out", out], "base itself"),
        (["merge", base, first, second], "nothing to write"),
        (["merge", base, first, "--out", base], "one of the inputs"),
        (["merge", base, first, "--out", first], "one of the inputs"),
        (["merge", base, first, "--delta-out", folder / "link.safetensors"], "one of the inputs"),
        (["merge", folder / "sharded", first, "--out", folder / "sharded" / "model.safetensors"], "one of the inputs"),
        (["merge", base, first, "--out", out, "--delta-out", out], "two files"),
        (["merge", base, first, "--out", folder / "nowhere" / "u.safetensors"], "nowhere"),
        (["merge", base, first, "--out", out, "--scale", "nan"], "scale"),
        (["merge", base, first, "--out", out, "--scale", "-1"], "scale"),
        (["merge", base, first, "--out", out, "--device", "tpu9"], "device"),
        (["merge", base, first, "--out", out, "--engine", "plain"], "--engine is gone: leave it out"),
        (["compare", "POOL", "--anew"], "--anew is gone: use --recompute"),
        (["reproduce", "cifar10-random", "--anew"], "--anew is gone: use --recompute"),
        (["merge", base, first, "--out", out, "--rule", "ties", "--agreement", "0.9"], "agreement"),
        (["merge", base, first, "--out", out, "--rule", "task-arithmetic", "--candidate", "2"], "candidate is 2"),
        (["agreement", base], "CANDIDATE"),
        (["apply", base, first, "--scale", "1", "--out", base], "one of the inputs"),
        (["undo", base, first, "--scale", "1", "--out", out], "delta"),
    ]:
        refused(capsys, folder, *words, says=says)


class FullDisk:
    """A file on a disk that fills up after some bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 400, 1500])
@pytest.mark.parametrize("base", ["base.safetensors", "sharded"])
def test_a_full_disk(capsys, folder, monkeypatch, room, base):
    real = os.fdopen
    monkeypatch.setattr("negmerge_kit.checkpoints.atomic.os.fdopen", lambda *a, **k: FullDisk(real(*a, **k), room))
    shutil.copy(folder / "c.safetensors", folder / "d.safetensors")  # one that would be written over
    words = ["merge", folder / base, *files(folder, "a", "b"), "--out", folder / "u.safetensors"]
    refused(capsys, folder, *words, "--delta-out", folder / "d.safetensors", says="No space left")


def test_a_candidate_of_another_base_is_refused_unless_forced_and_then_named(capsys, folder):
    base, first, second, third = files(folder, "base", "a", "b", "c")
    for path, made_from in ((first, "f" * 64), (second, sha256_file(base))):
        weights = dict(open_checkpoint(path))
        save_checkpoint(path, weights.items(), like=weights, metadata={MADE_FROM: made_from})
    out = folder / "u.safetensors"
    refused(capsys, folder, "merge", base, first, second, third, "--out", out, says="another base")
    assert main(["merge", *map(str, (base, second, third)), "--out", str(out)]) == 0
    assert "forced" not in open_checkpoint(out).metadata
    assert main(["merge", *map(str, (base, first, second)), "--out", str(out), "--force"]) == 0
    assert open_checkpoint(out).metadata["forced"] == [first.name]


def test_scalars_empty_tensors_and_a_single_candidate_are_nothing_bad(capsys, folder):
    base, candidates = make(3, seed=6)
    assert base["c"].shape == () and base["e.empty"].numel() == 0
    out = folder / "u.safetensors"
    for count in (1, 3):
        words = ["merge", *files(folder, "base", *"abc"[:count]), "--out", out, "--scale", "0.5", "--json"]
        assert main([str(word) for word in words]) == 0
        told = json.loads(capsys.readouterr().out)
        assert set(told) == {
            "rule",
            "params",
            "candidates",
            "elements",
            "moved",
            "kept",
            "kept_fraction",
            "kept_of_moved",
            "scale",
            "seconds",
            "out",
            "delta_out",
            "notes",
            "below_half_step",
        }
        expected = dict(unlearn(base, candidates[:count], scale=0.5))
        found = open_checkpoint(out)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        merged = merge(base, candidates[:count])
        dict(merged)
        assert (told["elements"], told["moved"], told["kept"]) == (
            merged.counts.elements,
            merged.counts.moved,
            merged.counts.kept,
        )
