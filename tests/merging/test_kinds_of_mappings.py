"""One model, however its tensors come: dicts, mappings that make theirs when asked, unaligned files, views."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.checkpoints.merge_files import agreement_files, merge_files
from negmerge_kit.merging import RULES, merge, sign_agreement, unlearn
from negmerge_kit.merging.similarity import likeness
from negmerge_kit.merging.sources import Sources
from negmerge_kit.merging.subsets import agreement_along
from negmerge_kit.models.layers import split_attention
from negmerge_kit.sweeps.merge_job import merge_sharded
from tests.checkpoints.files import sharded
from tests.merging.models import SHAPES, in_chunks, make


class Lazy(Mapping):
    """Makes a tensor each time it is asked, as the README invites."""

    def __init__(self, weights):
        self.weights = weights

    def __getitem__(self, name):
        return self.weights[name].clone()

    def __iter__(self):
        return iter(self.weights)

    def __len__(self):
        return len(self.weights)


def unaligned(path, weights):
    """A legal safetensors file, as old writers made them, none of whose tensors starts at a multiple of its size."""
    table, body = {}, b""
    for name, tensor in weights.items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        table[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(table).encode()
    text += b" " * (-(len(text) + 1) % 4 + 2)  # the length of a header may be any number
    assert (8 + len(text)) % 4 == 1
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return open_checkpoint(path)


def views(weights):
    """Views of one storage, one tensor after another."""
    floats = [name for name, tensor in weights.items() if tensor.is_floating_point()]
    storage = torch.cat([weights[name].reshape(-1) for name in floats])
    parts = storage.split([weights[name].numel() for name in floats])
    return {**weights, **{name: part.reshape(weights[name].shape) for name, part in zip(floats, parts, strict=True)}}


def written(path, weights):
    return open_checkpoint(save_checkpoint(path, weights.items(), like=weights))


KINDS = {
    "dict": lambda path, weights: weights,
    "lazy": lambda path, weights: Lazy(weights),
    "file": written,
    "unaligned": unaligned,
    "views": lambda path, weights: views(weights),
    "lazy views": lambda path, weights: Lazy(views(weights)),
    "lazy file": lambda path, weights: Lazy(written(path, weights)),
}


LONG = {**SHAPES, **{f"h{k}": (1000,) for k in range(8)}}  # long enough that freed memory is taken again at once


def every_kind(tmp_path, models, kinds=tuple(KINDS)):
    for kind in kinds:
        made = KINDS[kind]
        yield kind, [made(tmp_path / f"{kind}-{k}.safetensors", weights) for k, weights in enumerate(models)]
    if len(kinds) > len(models):
        yield (
            "mixed",
            [
                KINDS[kind](tmp_path / f"{k}.safetensors", weights)
                for k, (kind, weights) in enumerate(zip(kinds, models, strict=False))
            ],
        )


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def same(one, other):
    return list(one) == list(other) and all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


@pytest.mark.parametrize("size", [200, 1000, 5000, 100_000])
def test_what_a_mapping_makes_when_asked_is_no_zero_delta(size):
    base = {f"t{k}": torch.full((size,), float(k)) for k in range(20)}
    tuned = [{name: tensor + step for name, tensor in base.items()} for step in (1, 2)]
    merged = merge(Lazy(base), [Lazy(one) for one in tuned])
    assert all(torch.equal(delta, torch.full((size,), 1.5)) for _, delta in merged)
    assert merged.counts.moved == merged.counts.kept == 20 * size


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_the_same_bits_for_every_kind(tmp_path, rule):
    base, candidates = make(3, seed=3, shapes=LONG)
    expected = merge(base, candidates, rule=rule)
    deltas, gone = dict(expected), dict(unlearn(base, candidates, rule=rule, scale=0.7))
    for kind, (first, *rest) in every_kind(tmp_path, (base, *candidates)):
        found = merge(first, rest, rule=rule)
        assert {name: delta.sum() for name, delta in found}.keys() == deltas.keys(), kind  # each dropped at once
        assert found.counts == expected.counts, kind
        items = dict(merge(first, rest, rule=rule))
        assert {*items} == {*deltas} and all(torch.equal(bits(items[name]), bits(deltas[name])) for name in items), kind
        result = dict(unlearn(first, rest, rule=rule, scale=0.7))
        assert all(torch.equal(bits(result[name]), bits(gone[name])) for name in gone), kind


def test_chunks_give_the_same_bits_for_every_kind(tmp_path, monkeypatch):
    base, candidates = make(3, seed=3, shapes={**SHAPES, "large": (60, 61)}, common=0.5)
    expected = merge(base, candidates)
    deltas = dict(expected)
    in_chunks(monkeypatch, 1000)
    for kind, (first, *rest) in every_kind(tmp_path, (base, *candidates)):
        found = merge(first, rest)
        items = dict(found)
        assert all(torch.equal(bits(items[name]), bits(deltas[name])) for name in deltas), kind
        assert found.counts == expected.counts, kind


def test_votes_likeness_and_chains_are_the_same_for_every_kind(tmp_path):
    base, candidates = make(3, seed=4)
    shapes = {"v.attn.in_proj_weight": (12, 4), "v.attn.in_proj_bias": (12,)}
    more, tuned = make(3, seed=5, shapes=shapes)
    base, candidates = {**base, **more}, [{**one, **other} for one, other in zip(candidates, tuned, strict=True)]
    votes = {layer.name: layer for layer in sign_agreement(base, candidates)}
    thirds = list(sign_agreement(split_attention(base), list(map(split_attention, candidates))))
    alike = {layer.agreement.name: layer for layer in likeness(base, candidates)}
    chains = agreement_along(base, candidates, [[0, 1, 2], [2, 1, 0]])
    for kind, (first, *rest) in every_kind(tmp_path, (base, *candidates)):
        assert {layer.name: layer for layer in sign_agreement(first, rest)} == votes, kind
        assert {layer.agreement.name: layer for layer in likeness(first, rest)} == alike, kind
        assert agreement_along(first, rest, [[0, 1, 2], [2, 1, 0]]) == chains, kind
        split = list(sign_agreement(split_attention(first), list(map(split_attention, rest))))
        assert sorted(split, key=str) == sorted(thirds, key=str), kind


def test_files_and_shards_that_are_not_aligned_merge_as_others_do(tmp_path):
    base, candidates = make(2, seed=6)
    expected = dict(unlearn(base, candidates, scale=1.0))
    for k, weights in enumerate((base, *candidates)):
        unaligned(tmp_path / f"{k}.safetensors", weights)
    paths = [tmp_path / f"{k}.safetensors" for k in range(3)]
    merge_files(paths[0], paths[1:], out=tmp_path / "u.safetensors")
    found = open_checkpoint(tmp_path / "u.safetensors")
    assert all(torch.equal(bits(found[name]), bits(expected[name])) for name in expected)
    index = sharded(tmp_path, base, 2, stem="base")
    out = tmp_path / "sharded.safetensors"
    merge_sharded(index, paths[1:], out=out, executor="serial")
    parts = open_checkpoint(tmp_path / "sharded.safetensors.index.json")
    assert all(torch.equal(bits(parts[name]), bits(expected[name])) for name in expected)
    assert agreement_files(index, paths[1:])["moved"] == agreement_files(paths[0], paths[1:])["moved"] > 0


def test_only_an_object_that_is_the_base_s_own_is_taken_for_unmoved():
    base = {"still": torch.ones(3), "moved": torch.ones(3)}
    tuned = {**base, "moved": torch.zeros(3)}
    sources = Sources(base, [tuned])
    assert sources.unmoved("still") and not sources.unmoved("moved")
    assert not Sources(Lazy(base), [Lazy(tuned)]).unmoved("still")
    assert not Sources(base, [Lazy(tuned)]).unmoved("still")
