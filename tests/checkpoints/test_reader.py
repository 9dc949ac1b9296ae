"""Lazy checkpoints: what they show, what they refuse, and that a reader can never change the file."""

from __future__ import annotations

import json
import struct

import pytest
import safetensors.torch
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint, sha256_file
from negmerge_kit.errors import CheckpointError
from tests.checkpoints.files import sharded, write_raw

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
]


def one(path, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    safetensors.torch.save_file({"w": tensor, "scalar": tensor[1, 2].clone(), "none": tensor[:0].clone()}, path)
    return tensor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_reads_as_the_reference_reader_reads_it(tmp_path, dtype):
    one(tmp_path / "a.safetensors", dtype)
    ours, theirs = open_checkpoint(tmp_path / "a.safetensors"), safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        found = ours[name]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.numel() == 0 or torch.equal(
            found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_written_is_read_by_the_reference_reader(tmp_path, dtype):
    weights = {
        "a": torch.arange(3).to(torch.int8),
        "w": torch.arange(6).reshape(2, 3).to(dtype),
        "s": torch.tensor(1.5),
    }
    path = save_checkpoint(tmp_path / "a.safetensors", weights.items(), like=weights)
    theirs = safetensors.torch.load_file(path)
    assert set(theirs) == set(weights)
    for name, expected in weights.items():
        assert torch.equal(theirs[name].reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))


def test_writing_into_what_was_read_changes_nothing(tmp_path):
    one(tmp_path / "a.safetensors", torch.float32)
    before = sha256_file(tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    checkpoint["w"].fill_(7)
    assert checkpoint["w"][0, 1] == 1
    checkpoint.view("w").fill_(7)  # against the documented rule, and still the file is safe
    assert sha256_file(tmp_path / "a.safetensors") == before
    assert open_checkpoint(tmp_path / "a.safetensors")["w"][0, 1] == 1


def test_a_tensor_off_its_boundary_is_read_all_the_same(tmp_path):
    body = b"\x01" + struct.pack("<2f", 1.5, -2.0)
    path = write_raw(
        tmp_path / "a.safetensors",
        {
            "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "f": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
        },
        body,
    )
    assert open_checkpoint(path)["f"].tolist() == [1.5, -2.0]


def test_a_prefix_shows_one_tower(tmp_path):
    weights = {"visual.a": torch.ones(1), "visual.b": torch.zeros(2), "text": torch.ones(3)}
    path = save_checkpoint(tmp_path / "a.safetensors", weights.items(), like=weights)
    tower = open_checkpoint(path, prefix="visual.")
    assert set(tower) == {"a", "b"} and tower.layout()["b"] == ((2,), torch.float32)
    with pytest.raises(CheckpointError, match="starts with 'vision'"):
        open_checkpoint(path, prefix="vision")


def test_shards_are_one_checkpoint_from_index_or_folder(tmp_path):
    weights = {f"w{k}": torch.randn(40, 3) for k in range(7)}
    index = sharded(tmp_path, weights, 3)
    for path in (index, tmp_path):
        found = open_checkpoint(path)
        assert set(found) == set(weights) and all(torch.equal(found[name], weights[name]) for name in weights)
        assert len(found.files) == 3


def test_wrong_indexes_are_named(tmp_path):
    weights = {f"w{k}": torch.randn(4) for k in range(4)}
    index = sharded(tmp_path, weights, 2)
    good = json.loads(index.read_text())
    first, second = sorted(set(good["weight_map"].values()))
    for weight_map, complaint in [
        ({**good["weight_map"], "w0": second}, "does not fit its shards"),
        ({**good["weight_map"], "w9": first}, "does not fit its shards"),
        ({name: file for name, file in good["weight_map"].items() if name != "w1"}, "does not fit its shards"),
        ({**good["weight_map"], "w0": "../w.safetensors"}, "names a shard"),
        ({**good["weight_map"], "w0": 3}, r"weight_map\.w0"),
        ({**good["weight_map"], "w0": "gone.safetensors"}, "does not exist"),
        ({}, "no weight_map"),
        ([], "weight_map"),
    ]:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=complaint):
            open_checkpoint(index)
    for text in ("", "[]", "{", "[" * 100_000):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="index"):
            open_checkpoint(index)


def test_a_tensor_in_two_shards_and_a_truncated_shard_are_refused(tmp_path):
    index = sharded(tmp_path, {f"w{k}": torch.randn(4) for k in range(4)}, 2)
    first, second = (tmp_path / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values())))
    saved = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match="is in both"):
        open_checkpoint(index)
    second.write_bytes(saved[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    ("table", "body", "complaint"),
    [
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234", "4 bytes where its shape needs 8"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678", "gap"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345", "foreign bytes"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"123", "truncated"),
        ({"w": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}, b"1234", "not supported"),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234", "whole numbers"),
        ({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234", "whole numbers"),
        ({"w": {"dtype": "F32", "shape": [1]}}, b"1234", "two offsets"),
        ({"w": 3}, b"", "two offsets"),
        ({"__metadata__": {"a": 1}}, b"", "metadata"),
        ([], b"", "no.*table|not a table"),
    ],
    ids=str,
)
def test_a_lying_header_is_refused(tmp_path, table, body, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        open_checkpoint(write_raw(tmp_path / "a.safetensors", table, body))


def test_duplicate_keys_are_refused(tmp_path):
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    path = write_raw(tmp_path / "a.safetensors", f'{{"w":{entry},"w":{entry}}}', b"1234")
    with pytest.raises(CheckpointError, match="'w' occurs twice"):
        open_checkpoint(path)


def test_files_that_are_no_safetensors_say_what_they_are(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    torch.save({"w": torch.ones(1)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="negmerge convert"):
            open_checkpoint(tmp_path / name)
    for content in (b"", b"x", b"\x00" * 8, b"\xff" * 64, b"hello world, this is text"):
        (tmp_path / "c").write_bytes(content)
        with pytest.raises(CheckpointError, match="no safetensors file|cannot be used"):
            open_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no safetensors"):
        open_checkpoint(tmp_path / "empty")


def test_a_folder_with_several_checkpoints_asks_which(tmp_path):
    for name in ("a", "b"):
        save_checkpoint(tmp_path / f"{name}.safetensors", {"w": torch.ones(1)}.items(), like={"w": torch.ones(1)})
    with pytest.raises(CheckpointError, match="several"):
        open_checkpoint(tmp_path)
