"""Neighbours in a file fold as one array: the same bits as one tensor after another, and the same refusals."""

from __future__ import annotations

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging import fused, merge
from negmerge_kit.merging.sources import Sources

SHAPES = {"a": (40, 50), "b": (3,), "bn.running_mean": (7,), "c": (), "d": (2000,), "e": (0, 4), "f": (9, 9)}

pytestmark = pytest.mark.skipif(not fused.compiler_present(), reason="no C++ compiler on this machine")


def models(n: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(n)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    base |= {"steps": torch.tensor(3), "half": torch.randn(64, generator=generator).double()}
    return [base] + [
        {k: v if v.dtype == torch.int64 else v + torch.randn(v.shape, generator=generator) for k, v in base.items()}
        for _ in range(n)
    ]


def written(folder, weights, order=None):
    items = [(name, weights[name]) for name in order or weights]
    return open_checkpoint(save_checkpoint(folder, items, like=dict(items)))


@pytest.fixture
def files(tmp_path):
    return [written(tmp_path / f"{i}.safetensors", weights) for i, weights in enumerate(models(3))]


def test_neighbours_are_found_and_whatever_does_not_take_part_parts_them(files):
    runs = list(Sources(files[0], files[1:]).runs())
    assert [name for run in runs for name in run] == [name for name in files[0] if name != "steps"]
    assert ["bn.running_mean"] in runs and ["half"] in runs
    assert max(map(len, runs)) >= 3


def test_another_order_in_one_file_parts_neighbours(files, tmp_path):
    other = written(tmp_path / "other.safetensors", dict(files[3]), order=sorted(files[3], reverse=True))
    assert all(len(run) == 1 for run in Sources(files[0], [*files[1:3], other]).runs())
    whole, mixed = (dict(merge(files[0], [*files[1:3], last], engine="fused")) for last in (files[3], other))
    assert all(torch.equal(whole[name], mixed[name]) for name in whole)


@pytest.mark.parametrize("buffers", ["keep", "merge"])
def test_joined_and_single_tensors_give_the_same_bits_and_counts(files, buffers):
    one_by_one = merge(dict(files[0]), [dict(file) for file in files[1:]], engine="plain", buffers=buffers)
    joined = merge(files[0], files[1:], engine="fused", buffers=buffers)
    ours, theirs = dict(joined), dict(one_by_one)
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].shape == theirs[name].shape
        assert torch.equal(ours[name].reshape(-1).view(torch.uint8), theirs[name].reshape(-1).view(torch.uint8)), name
    assert joined.counts == one_by_one.counts


def test_a_nan_in_a_run_is_named_by_its_own_tensor(files, tmp_path):
    broken = dict(files[2])
    broken["d"][77] = float("nan")
    bad = written(tmp_path / "bad.safetensors", broken)
    with pytest.raises(CheckpointError, match=r"^d holds NaN"):
        dict(merge(files[0], [files[1], bad], engine="fused"))
