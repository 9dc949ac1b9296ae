"""Sparse deltas: as small as they say, the same as dense ones at every scale, and undone to the bit."""

from __future__ import annotations

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint, sha256_file
from negmerge_kit.checkpoints.delta_file import open_delta, save_delta, undo_delta
from negmerge_kit.errors import CheckpointError, MismatchError, ParameterError
from negmerge_kit.merging import apply_delta, merge
from tests.merging.models import make


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.filterwarnings("ignore:weights are stored in half precision")
def test_apply_and_undo_are_exact(tmp_path, dtype):
    base, candidates = make(3, seed=4, dtype=dtype)
    delta = dict(merge(base, candidates))
    stored = open_delta(save_delta(tmp_path / "d.safetensors", delta.items(), base=base, scale=0.7))
    assert all(torch.equal(bits(stored[name]), bits(delta[name])) for name in delta)
    assert stored.layout() == {name: (tuple(t.shape), t.dtype) for name, t in delta.items()}
    for scale in (0, 0.25, 0.7, 3.0):
        sparse, dense = dict(apply_delta(base, stored, scale)), dict(apply_delta(base, delta, scale))
        assert all(torch.equal(bits(sparse[name]), bits(dense[name])) for name in base)
    unlearned = dict(apply_delta(base, stored, 0.7))
    back = dict(undo_delta(unlearned, stored, 0.7))
    assert all(torch.equal(bits(back[name]), bits(base[name])) for name in base)
    assert any(not torch.equal(unlearned[name], base[name]) for name in base)


def test_a_tenth_kept_costs_about_an_eighth(tmp_path):
    base = {"w": torch.randn(100_000)}
    delta = {"w": torch.where(torch.rand(100_000) < 0.1, torch.randn(100_000), torch.tensor(0.0))}
    dense = save_checkpoint(tmp_path / "dense.safetensors", delta.items(), like=base).stat().st_size
    sparse = save_delta(tmp_path / "sparse.safetensors", delta.items(), base=base).stat().st_size
    assert sparse < 0.14 * dense


def test_the_file_is_a_plain_safetensors_file(tmp_path):
    from safetensors import safe_open

    base, candidates = make(2)
    path = save_delta(tmp_path / "d.safetensors", merge(base, candidates), base=base, scale=1.0)
    with safe_open(path, "pt") as file:
        assert {name.rpartition("#")[2] for name in file.keys()} == {"mask", "values", "base"}


def test_what_cannot_be_undone_says_why(tmp_path):
    base, candidates = make(2)
    delta = dict(merge(base, candidates))
    stored = open_delta(save_delta(tmp_path / "d.safetensors", delta.items(), base=base, scale=0.5))
    unlearned = dict(apply_delta(base, stored, 0.5))
    with pytest.raises(ParameterError, match="written for scale 0.5"):
        dict(undo_delta(unlearned, stored, 1.0))
    with pytest.raises(MismatchError, match="very file"):
        dict(undo_delta(base, stored, 0.5))
    with pytest.raises(MismatchError, match="another model"):
        dict(undo_delta({"other": torch.ones(2)}, stored, 0.5))
    plain = open_delta(save_delta(tmp_path / "p.safetensors", delta.items(), base=base))
    with pytest.raises(CheckpointError, match="no values of its base"):
        dict(undo_delta(unlearned, plain, 0.5))
    floating = {name: t for name, t in base.items() if t.is_floating_point()}
    dense = open_delta(save_checkpoint(tmp_path / "x.safetensors", delta.items(), like=floating))
    with pytest.raises(CheckpointError, match="dense delta"):
        dict(undo_delta(unlearned, dense, 0.5))


def test_a_delta_of_another_model_is_refused_whole(tmp_path):
    base, candidates = make(2)
    stored = open_delta(save_delta(tmp_path / "d.safetensors", merge(base, candidates), base=base))
    with pytest.raises(MismatchError, match="does not fit"):
        apply_delta({"w": torch.ones(2)}, stored, 1.0)
    with pytest.raises(MismatchError, match="never came"):
        save_delta(tmp_path / "half.safetensors", [("c", torch.tensor(1.0))], base=base)
    with pytest.raises(MismatchError, match="no tensor of the base"):
        save_delta(tmp_path / "half.safetensors", [("x", torch.tensor(1.0))], base=base)
    assert not list(tmp_path.glob("*half*"))


def test_damage_inside_a_delta_is_named(tmp_path):
    base = {"w": torch.zeros(64)}
    path = save_delta(tmp_path / "d.safetensors", [("w", torch.ones(64))], base=base)
    data = bytearray(path.read_bytes())
    data[-65 * 4 - 4] ^= 1  # a bit of the mask, which lies before sixty-four values
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged at w"):
        open_delta(path)["w"]
    before = sha256_file(path)
    open_checkpoint(path)
    assert sha256_file(path) == before
