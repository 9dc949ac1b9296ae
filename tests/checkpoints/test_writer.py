"""The writer: whole or not at all, the same bytes every time, and never onto what is being read."""

from __future__ import annotations

import errno
import json
import os

import pytest
import safetensors.torch
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint, sha256_file, writer
from negmerge_kit.errors import CheckpointError, MismatchError
from negmerge_kit.merging import unlearn
from tests.checkpoints.files import sharded

WEIGHTS = {
    "w": torch.randn(5, 4),
    "b": torch.tensor(3),
    "h": torch.ones(3, dtype=torch.bfloat16),
    "e": torch.empty(0, 2),
}


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_keeps_bits_and_metadata(tmp_path):
    path = save_checkpoint(
        tmp_path / "a.safetensors", WEIGHTS.items(), like=WEIGHTS, metadata={"rule": "x", "scale": 0.5}
    )
    found = open_checkpoint(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())
    assert found.metadata == {"rule": "x", "scale": 0.5}
    with safetensors.safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["negmerge"]


def test_items_may_come_in_any_order_and_give_the_same_bytes(tmp_path):
    hashes = set()
    for k, items in enumerate((list(WEIGHTS.items()), list(reversed(WEIGHTS.items())))):
        hashes.add(
            sha256_file(save_checkpoint(tmp_path / f"{k}.safetensors", items, like=WEIGHTS, metadata={"b": 1, "a": 2}))
        )
    assert len(hashes) == 1


def test_foreign_metadata_of_the_base_is_kept(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    base = open_checkpoint(tmp_path / "a.safetensors")
    path = save_checkpoint(tmp_path / "b.safetensors", base.items(), like=base, metadata={"rule": "x"})
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt" and json.loads(file.metadata()["negmerge"]) == {"rule": "x"}


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ([("w", torch.ones(5, 4)), ("x", torch.ones(1))], "x is not among"),
        ([("w", torch.ones(4, 5))], r"w came as \[4, 5\]"),
        ([("w", torch.ones(5, 4, dtype=torch.float64))], "w came as.*float64"),
        ([("w", torch.ones(5, 4)), ("w", torch.ones(5, 4))], "w came twice"),
        ([("w", torch.ones(5, 4))], "3 tensors never came.*first"),
    ],
)
def test_items_that_do_not_match_leave_no_file_and_the_old_one_alone(tmp_path, items, complaint):
    (tmp_path / "a.safetensors").write_bytes(b"old")
    with pytest.raises(MismatchError, match=complaint):
        save_checkpoint(tmp_path / "a.safetensors", items, like=WEIGHTS)
    assert leftovers(tmp_path) == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == b"old"


class FullDisk:
    """A file on a disk that fills up after some bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 100, 300])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, room):
    import os

    real = os.fdopen
    monkeypatch.setattr("negmerge_kit.checkpoints.atomic.os.fdopen", lambda *a, **k: Context(real(*a, **k), room))
    (tmp_path / "a.safetensors").write_bytes(b"old")
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path / "a.safetensors", WEIGHTS.items(), like=WEIGHTS)
    assert leftovers(tmp_path) == ["a.safetensors"] and (tmp_path / "a.safetensors").read_bytes() == b"old"


class Context:
    def __init__(self, file, room):
        self._file, self._room = file, room

    def __enter__(self):
        return FullDisk(self._file.__enter__(), self._room)

    def __exit__(self, *error):
        return self._file.__exit__(*error)


def test_a_merge_that_fails_half_way_leaves_nothing(tmp_path):
    base = {"a": torch.zeros(3), "b": torch.zeros(3)}
    bad = {"a": torch.ones(3), "b": torch.full((3,), float("nan"))}
    with pytest.raises(CheckpointError, match="b holds NaN"):
        save_checkpoint(tmp_path / "a.safetensors", unlearn(base, [bad], scale=1.0), like=base)
    assert leftovers(tmp_path) == []


def test_the_base_is_never_written_over(tmp_path):
    path = save_checkpoint(tmp_path / "a.safetensors", WEIGHTS.items(), like=WEIGHTS)
    before = sha256_file(path)
    base = open_checkpoint(path)
    (tmp_path / "link.safetensors").symlink_to(path)
    for target in (path, tmp_path / "link.safetensors"):
        with pytest.raises(CheckpointError, match="one of the inputs"):
            save_checkpoint(target, base.items(), like=base)
    assert sha256_file(path) == before


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        save_checkpoint(tmp_path / "nowhere" / "a.safetensors", WEIGHTS.items(), like=WEIGHTS)


def test_a_sharded_base_gives_shards_alike(tmp_path):
    weights = {f"w{k}": torch.randn(40, 3) for k in range(7)}
    (tmp_path / "in").mkdir()
    base = open_checkpoint(sharded(tmp_path / "in", weights, 3))
    index = save_checkpoint(tmp_path / "out.safetensors", base.items(), like=base, metadata={"rule": "x"})
    assert index.name == "out.safetensors.index.json"
    written = open_checkpoint(index)
    assert [file.name for file in written.files] == [f"out-{k:05d}-of-00003.safetensors" for k in (1, 2, 3)]
    assert all(torch.equal(written[name], weights[name]) for name in weights)
    assert list(written.shards().values()) == list(base.shards().values())
    with pytest.raises(CheckpointError, match=r"\.safetensors ending"):
        save_checkpoint(tmp_path / "folder", base.items(), like=base)
    # A tensor that never comes: neither shards nor index appear.
    with pytest.raises(MismatchError):
        save_checkpoint(tmp_path / "half.safetensors", list(base.items())[:3], like=base)
    assert not list(tmp_path.glob("*half*"))


def test_metadata_that_are_known_last_give_the_bytes_of_those_known_first(tmp_path):
    order = []

    def items():
        yield from WEIGHTS.items()
        order.append("items")

    def complete():
        order.append("metadata")
        return {"digest": "abc"}

    first = save_checkpoint(tmp_path / "a.safetensors", WEIGHTS.items(), like=WEIGHTS, metadata={"digest": "abc"})
    last = save_checkpoint(
        tmp_path / "b.safetensors", items(), like=WEIGHTS, metadata={"digest": "000"}, complete=complete
    )
    assert first.read_bytes() == last.read_bytes() and order == ["items", "metadata"]
    with pytest.raises(ValueError, match="header has become"):
        save_checkpoint(
            tmp_path / "c.safetensors", items(), like=WEIGHTS, metadata={"digest": "0" * 64}, complete=complete
        )
    assert leftovers(tmp_path) == ["a.safetensors", "b.safetensors"]


def test_what_is_handed_to_the_disk_on_the_way_gives_the_same_bytes_and_fails_whole(tmp_path, monkeypatch):
    expected = save_checkpoint(tmp_path / "a.safetensors", WEIGHTS.items(), like=WEIGHTS).read_bytes()
    monkeypatch.setattr(writer, "FLUSH", 1)
    flushed, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(handle) or real(handle))
    assert save_checkpoint(tmp_path / "a.safetensors", WEIGHTS.items(), like=WEIGHTS).read_bytes() == expected
    assert len(flushed) > 2  # the file at its end, and its folder

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="free some space"):
        save_checkpoint(tmp_path / "b.safetensors", WEIGHTS.items(), like=WEIGHTS)
    assert leftovers(tmp_path) == ["a.safetensors"]
