"""Ten thousand damaged files: a named error, or tensors that the reference reader shows alike; never anything else."""

from __future__ import annotations

import json
import random
import struct

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.errors import CheckpointError, NegmergeError
from negmerge_kit.merging import merge

SEEDS = 10_000


def original() -> bytes:
    return save(
        {
            "a.weight": torch.arange(12.0).reshape(3, 4),
            "b": torch.tensor(2),
            "c": torch.ones(5).to(torch.bfloat16),
            "e": torch.empty(0, 3),
        },
        {"format": "pt"},
    )


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three random injuries: bits, bytes, cuts, repeats, numbers and words of the header exchanged."""
    data = bytearray(data)
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(rng.randint(1, 3)):
        if not data:
            break
        kind = rng.randrange(8)
        place = rng.randrange(len(data)) if rng.random() < 0.3 else rng.randrange(min(header, len(data)) or 1)
        if kind == 0:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + rng.randint(1, 9)]
        elif kind == 4:
            data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
        elif kind == 5:
            data[:8] = struct.pack("<Q", rng.choice([0, 1, header - 9, header, 2**31, 2**63, 2**64 - 1, len(data)]))
        elif kind == 6:
            digits = [k for k, byte in enumerate(data[:header]) if 48 <= byte <= 57]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789-.e")
        else:
            word = rng.choice(
                [b"F32", b"I64", b"BF16", b"a.weight", b"shape", b"dtype", b"data_offsets", b"[", b"{", b","]
            )
            other = rng.choice([b"F64", b"U8", b"F8", b"b", b"", b"null", b"-1", b"[[[[", b"1e400", b"\xff"])
            at = data.find(word)
            if at >= 0:
                data[at : at + len(word)] = other
    return bytes(data)


def same_as_reference(path, found):
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == set(found)
        for name in file.keys():
            theirs, ours = file.get_tensor(name), found[name]
            assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
            assert not ours.numel() or torch.equal(
                theirs.reshape(-1).view(torch.uint8), ours.reshape(-1).view(torch.uint8)
            )


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path):
    rng, data, path = random.Random(0), original(), tmp_path / "a.safetensors"
    accepted = refused = 0
    while accepted + refused < SEEDS:
        damaged = mutated(data, rng)
        if damaged == data:  # a byte exchanged for itself is no mutation, and does not count
            continue
        path.write_bytes(damaged)
        try:
            found = open_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            refused += 1
            continue
        accepted += 1
        same_as_reference(path, found)
    assert 100 < accepted < SEEDS / 2  # most injuries are noticed; those to numbers and names make another valid file


def test_a_damaged_candidate_gives_a_named_error_or_a_merge(tmp_path):
    rng, data, path = random.Random(1), original(), tmp_path / "a.safetensors"
    (tmp_path / "base.safetensors").write_bytes(data)
    base = open_checkpoint(tmp_path / "base.safetensors")
    for _ in range(300):
        path.write_bytes(mutated(data, rng))
        try:
            names = {name for name, _ in merge(base, [open_checkpoint(path)])}
        except NegmergeError:
            continue
        assert names == {"a.weight", "c", "e"}
    assert (tmp_path / "base.safetensors").read_bytes() == data


entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BF16", "BOOL", "F4", "", "f32"]) | st.integers(),
        "shape": st.lists(st.integers(-2, 4) | st.just(2**62), max_size=3) | st.none(),
        "data_offsets": st.lists(st.integers(-4, 40) | st.just(2**63), min_size=1, max_size=3),
    }
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    table=st.dictionaries(st.text(max_size=4), entries | st.integers() | st.text(max_size=3), max_size=3),
    body=st.binary(max_size=40),
)
def test_any_table_of_tensors_is_read_right_or_refused(tmp_path_factory, table, body):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    try:
        found = open_checkpoint(path)
    except CheckpointError:
        return
    same_as_reference(path, found)


@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_a_header_nested_without_end_is_refused(tmp_path, depth):
    text = b"[" * depth
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError, match="header"):
        open_checkpoint(tmp_path / "a.safetensors")
