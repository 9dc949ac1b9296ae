"""In any chunks, on any number of threads, out of dicts or files: the same bits, the same counts, the same refusals."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging import RULES, merge, sign_agreement
from negmerge_kit.merging.deltas import masked
from tests.merging.models import SHAPES, in_chunks, make

LARGE = {**SHAPES, "large": (300, 301), "bn.running_mean": (7,), "half.of": (64,)}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def same(one, other) -> bool:
    return list(one) == list(other) and all(
        one[name].shape == other[name].shape and torch.equal(bits(one[name]), bits(other[name])) for name in one
    )


def written(path, weights, order=None):
    items = [(name, weights[name]) for name in order or weights]
    return open_checkpoint(save_checkpoint(path, items, like=dict(items)))


@pytest.fixture
def threads():
    """Sets how many threads torch uses, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.filterwarnings("ignore:weights are stored in half precision")
def test_neither_chunks_nor_threads_change_a_bit(rule, dtype, threads, monkeypatch):
    base, candidates = make(3, seed=2, dtype=dtype, shapes=LARGE)
    threads(1)
    alone = merge(base, candidates, rule=rule, buffers="merge")
    expected = dict(alone)
    for count, chunk in ((3, None), (2, 40_000), (2, 1000)):  # torch shares out what is longer than 32,768
        threads(count)
        in_chunks(monkeypatch, chunk)
        shared = merge(base, candidates, rule=rule, buffers="merge")
        assert same(dict(shared), expected) and shared.counts == alone.counts


def test_agreement_is_the_same_on_any_number_of_threads(threads):
    base, candidates = make(3, shapes={"w": (1500, 1000)})
    results = []
    for count in (1, 2):
        threads(count)
        results.append(list(sign_agreement(base, candidates)))
    assert results[0] == results[1]


@pytest.mark.parametrize("buffers", ["keep", "merge"])
def test_files_in_any_order_give_the_bits_and_counts_of_dicts(tmp_path, buffers, monkeypatch):
    base, candidates = make(3, seed=5, shapes=LARGE)
    in_dicts = merge(base, candidates, buffers=buffers)
    expected = dict(in_dicts)
    in_chunks(monkeypatch, 100)
    files = [written(tmp_path / f"{k}.safetensors", weights) for k, weights in enumerate((base, *candidates[:2]))]
    files.append(written(tmp_path / "other.safetensors", candidates[2], order=sorted(candidates[2], reverse=True)))
    in_files = merge(files[0], files[1:], buffers=buffers)
    found = dict(in_files)
    assert found.keys() == expected.keys() and all(torch.equal(bits(found[n]), bits(expected[n])) for n in expected)
    assert in_files.counts == in_dicts.counts


def test_denormal_numbers_are_left_alone(monkeypatch):
    base = {"w": torch.zeros(2048)}
    candidates = [{"w": torch.full((2048,), 1e-40)}, {"w": torch.full((2048,), 3e-40)}]
    in_chunks(monkeypatch, 1000)
    merged = merge(base, candidates)
    delta = dict(merged)["w"]
    assert torch.equal(bits(delta), bits((candidates[0]["w"] + candidates[1]["w"]) / 2))
    assert merged.counts.kept == merged.counts.moved == 2048


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["base", "candidate", "both"])
def test_nan_and_infinity_are_named_and_refused_or_let_pass(bad, where, monkeypatch):
    base, candidates = make(3)
    in_chunks(monkeypatch, 10)
    if where in ("base", "both"):
        base["d.conv"][0, 0, 0, 0] = bad
    if where in ("candidate", "both"):
        candidates[1]["d.conv"][0, 0, 0, 0] = bad
    merged = merge(base, candidates)
    assert [next(merged)[0] for _ in range(3)] == ["a.weight", "b.bias", "c"]  # what comes before it, comes
    with pytest.raises(CheckpointError, match=r"d\.conv.*nonfinite"):
        next(merged)
    passed = dict(merge(base, candidates, nonfinite="pass"))
    assert set(passed) == {name for name in base if name != "steps"}


def test_what_is_not_finite_in_one_candidate_leaves_disagreement_at_zero():
    base = {"w": torch.zeros(3)}
    candidates = [{"w": torch.tensor([torch.inf, 1.0, torch.nan])}, {"w": torch.tensor([-1.0, torch.inf, 1.0])}]
    delta = dict(merge(base, candidates, nonfinite="pass"))["w"]
    assert delta.tolist() == [0.0, torch.inf, 0.0]


def test_large_finite_values_are_no_infinities():
    base = {"w": torch.zeros(100)}
    candidates = [{"w": torch.full((100,), 3e38)}]
    assert torch.equal(dict(merge(base, candidates))["w"], candidates[0]["w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_mask_is_torch_s_where_to_the_bit(dtype):
    values = torch.tensor([1.5, -2.0, -0.0, 0.0, torch.inf, torch.nan, 1e-45], dtype=dtype).repeat(2)
    mask = torch.tensor([1.0] * 7 + [0.0] * 7, dtype=dtype)
    assert torch.equal(bits(masked(values, mask)), bits(torch.where(mask != 0, values, 0.0)))


def test_a_merge_holds_nothing_that_its_caller_has_dropped(monkeypatch):
    in_chunks(monkeypatch, 1000)
    merged = merge(*make(3, shapes=LARGE))
    name, first = next(merged)
    gone = weakref.ref(first)
    del first
    next(merged)
    assert name == "a.weight" and gone() is None
    whole = weakref.ref(merged._sources)
    del merged
    gc.collect()
    assert whole() is None


def test_under_inference_mode_the_result_trains_and_the_merge_goes_on_outside(monkeypatch):
    base, candidates = make(2)
    in_chunks(monkeypatch, 50)
    merged = merge(base, candidates)
    with torch.inference_mode():
        items = [next(merged)]
    delta = dict([*items, *merged])["f"]
    assert torch.equal(delta, dict(merge(base, candidates))["f"])
    weight = torch.ones(128, requires_grad=True)
    (weight * delta).sum().backward()
    assert torch.equal(weight.grad, delta)
