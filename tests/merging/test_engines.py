"""Compiled or plain, on one thread or several: the same bits, the same counts, the same refusals."""

from __future__ import annotations

import pytest
import torch

from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging import RULES, fused, merge
from negmerge_kit.merging.fused import fusable
from tests.merging.models import SHAPES, make

needs_compiler = pytest.mark.skipif(not fused.compiler_present(), reason="no C++ compiler on this machine")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@needs_compiler
@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if fusable(rule)])
def test_fused_and_plain_agree_bit_for_bit(rule):
    base, candidates = make(3, seed=2, shapes={**SHAPES, "large": (300, 301)})
    plain, compiled = (merge(base, candidates, rule=rule, engine=engine) for engine in ("plain", "fused"))
    ours, theirs = dict(plain), dict(compiled)
    assert all(torch.equal(bits(ours[name]), bits(theirs[name])) for name in ours)
    assert plain.counts == compiled.counts


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.filterwarnings("ignore:weights are stored in half precision")
def test_fused_and_plain_agree_in_every_precision(dtype):
    base, candidates = make(3, seed=2, dtype=dtype, shapes={"w": (100, 33), "c": ()})
    ours, theirs = (dict(merge(base, candidates, engine=engine)) for engine in ("plain", "fused"))
    assert all(torch.equal(bits(ours[name]), bits(theirs[name])) for name in ours)


@needs_compiler
def test_the_compiled_loop_leaves_denormal_numbers_alone():
    base = {"w": torch.zeros(2048)}
    candidates = [{"w": torch.full((2048,), 1e-40)}, {"w": torch.full((2048,), 3e-40)}]
    ours, theirs = (dict(merge(base, candidates, engine=engine))["w"] for engine in ("plain", "fused"))
    assert torch.equal(bits(ours), bits(theirs))
    assert ours.count_nonzero() == 2048


def test_a_compiler_that_fails_costs_nothing_but_a_warning(monkeypatch, caplog):
    def broken(*_):
        def kernel(*_):
            raise RuntimeError("no such compiler")

        return kernel

    monkeypatch.setattr(fused, "_compile", broken)
    monkeypatch.setattr(fused, "_compiled", {})
    monkeypatch.setattr(fused, "compiler_present", lambda device: True)
    base, candidates = make(2, shapes={"w": (50, 50)})
    ours = dict(merge(base, candidates, engine="fused"))
    assert all(torch.equal(ours[name], value) for name, value in merge(base, candidates, engine="plain"))
    assert "plain torch" in caplog.text


def test_small_models_are_never_compiled(monkeypatch):
    monkeypatch.setattr(fused, "_compile", lambda *_: pytest.fail("compiled a model of a few hundred weights"))
    monkeypatch.setattr(fused, "_compiled", {})
    dict(merge(*make(3)))


def test_the_number_of_threads_never_changes_a_bit():
    base, candidates = make(3, shapes={"w": (1100, 1000)})
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(dict(merge(base, candidates))["w"])
        assert torch.equal(bits(results[0]), bits(results[1]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["base", "candidate", "both"])
def test_nan_and_infinity_are_named_and_refused_or_let_pass(bad, where):
    base, candidates = make(3)
    if where in ("base", "both"):
        base["d.conv"][0, 0, 0, 0] = bad
    if where in ("candidate", "both"):
        candidates[1]["d.conv"][0, 0, 0, 0] = bad
    with pytest.raises(CheckpointError, match=r"d\.conv.*nonfinite"):
        dict(merge(base, candidates))
    passed = dict(merge(base, candidates, nonfinite="pass"))
    assert set(passed) == {name for name in base if name != "steps"}


def test_large_finite_values_are_no_infinities():
    base = {"w": torch.zeros(100)}
    candidates = [{"w": torch.full((100,), 3e38)}]
    assert torch.equal(dict(merge(base, candidates))["w"], candidates[0]["w"])
