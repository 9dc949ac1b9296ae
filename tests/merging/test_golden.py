"""The authors' own outputs: NegMerge and MagMax bit for bit, TIES within 1e-6 with the same zeros."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.merging import merge, sign_agreement, total
from tests.checkpoints.files import sharded
from tests.merging.models import in_chunks

GOLDEN = Path(__file__).parents[1] / "golden"
CHUNKS = [1, 7, 64, 1000, 6912, 6913, None, 10**9]


@pytest.fixture(scope="module")
def files():
    return open_checkpoint(GOLDEN / "base.safetensors"), [
        open_checkpoint(GOLDEN / f"candidate_{k}.safetensors") for k in range(5)
    ]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.int32), b.reshape(-1).view(torch.int32))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", CHUNKS)
def test_negmerge_is_bit_identical_to_the_authors(files, chunk, monkeypatch):
    in_chunks(monkeypatch, chunk)
    expected = open_checkpoint(GOLDEN / "expected_negmerge.safetensors")
    merged = merge(*files, buffers="merge")
    delta = dict(merged)
    assert delta.keys() == set(expected)
    assert all(same_bits(delta[name], expected[name]) for name in expected)
    stats = json.loads((GOLDEN / "stats.json").read_text())
    assert merged.counts.elements == stats["elements"]
    assert merged.counts.kept == stats["consensus_elements"]
    assert merged.counts.kept_fraction == pytest.approx(stats["consensus_fraction"], abs=1e-6)


def test_agreement_matches_the_authors_counts(files, monkeypatch):
    in_chunks(monkeypatch, 100)
    stats = json.loads((GOLDEN / "stats.json").read_text())
    layers = list(sign_agreement(*files, buffers="merge"))
    for layer in layers:
        assert layer.unanimous_fraction == pytest.approx(stats["per_tensor_consensus_fraction"][layer.name], abs=1e-6)
    assert total(layers).unanimous == stats["consensus_elements"]
    assert total(layers).elements == stats["elements"]


def test_the_written_delta_is_the_authors(files, tmp_path):
    base, candidates = files
    floating = {name: tensor for name, tensor in base.items() if tensor.is_floating_point()}
    path = save_checkpoint(tmp_path / "delta.safetensors", merge(base, candidates, buffers="merge"), like=floating)
    expected = open_checkpoint(GOLDEN / "expected_negmerge.safetensors")
    written = open_checkpoint(path)
    assert all(same_bits(written[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", CHUNKS)
def test_magmax_is_bit_identical_to_the_authors(files, chunk, monkeypatch):
    in_chunks(monkeypatch, chunk)
    expected = open_checkpoint(GOLDEN / "expected_magmax.safetensors")
    delta = dict(merge(*files, rule="magmax", buffers="merge"))
    assert all(same_bits(delta[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("percent", [20, 70])
def test_ties_matches_the_authors(files, percent, chunk, monkeypatch):
    in_chunks(monkeypatch, chunk)
    expected = open_checkpoint(GOLDEN / f"expected_ties_top{percent}.safetensors")
    delta = dict(merge(*files, rule="ties", density=percent / 100, trim_over="all", buffers="merge"))
    for name in expected:
        assert torch.equal(delta[name] == 0, expected[name] == 0), name
        torch.testing.assert_close(delta[name], expected[name], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [3, 1000, None])
def test_shards_of_any_number_give_the_same_bits(files, tmp_path, chunk, monkeypatch):
    in_chunks(monkeypatch, chunk)
    opened = []
    for k, weights in enumerate((files[0], *files[1])):
        (tmp_path / str(k)).mkdir()
        opened.append(open_checkpoint(sharded(tmp_path / str(k), dict(weights), k + 1)))
    for rule, expected, params in [
        ("negmerge", "negmerge", {}),
        ("magmax", "magmax", {}),
        ("ties", "ties_top20", {"density": 0.2, "trim_over": "all"}),
    ]:
        golden = open_checkpoint(GOLDEN / f"expected_{expected}.safetensors")
        delta = dict(merge(opened[0], opened[1:], rule=rule, buffers="merge", **params))
        for name in golden:
            if rule == "ties":
                assert torch.equal(delta[name] == 0, golden[name] == 0)
                torch.testing.assert_close(delta[name], golden[name], rtol=0, atol=1e-6)
            else:
                assert same_bits(delta[name], golden[name])
