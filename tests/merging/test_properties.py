"""What must hold for every rule, whatever the numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negmerge_kit.errors import CheckpointError, DeviceError, MismatchError, ParameterError
from negmerge_kit.merging import RULES, apply_delta, merge, sign_agreement, subtract, total, unlearn, votes_needed
from negmerge_kit.merging.staging import Piece, staged
from tests.merging.models import make

WHOLE = {"ties": {"density": 1.0}, "dare": {"drop": 0.0}, "breadcrumbs": {"density": 1.0, "gamma": 0.0}}
"""Dials at which a rule that trims keeps everything."""
SELECTING = [name for name in RULES if name != "task-arithmetic"]


def delta(base, candidates, rule="negmerge", **params):
    return dict(merge(base, candidates, rule=rule, **params))


@pytest.mark.parametrize("rule", [name for name in RULES if name != "conflict"])
def test_one_candidate_is_plain_task_negation(rule):
    base, candidates = make(1)
    for name, value in delta(base, candidates, rule, **WHOLE.get(rule, {})).items():
        torch.testing.assert_close(value, candidates[0][name] - base[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", SELECTING)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(order=st.permutations(range(5)), seed=st.integers(0, 100))
def test_the_order_of_candidates_changes_no_mask(rule, order, seed):
    base, candidates = make(5, seed=seed, shapes={"w": (12, 7), "b": (5,)})
    one, other = delta(base, candidates, rule), delta(base, [candidates[k] for k in order], rule)
    for name in one:
        if rule == "top-magnitude":  # its choice is by the mean, whose last bit depends on the order of the sum
            assert one[name].count_nonzero() == other[name].count_nonzero()
        else:
            assert torch.equal(one[name] != 0, other[name] != 0)
            torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n=st.integers(2, 9), victim=st.integers(0, 8), place=st.integers(0, 83), seed=st.integers(0, 50))
def test_flipping_one_sign_zeroes_the_element(n, victim, place, seed):
    base, candidates = make(n, seed=seed, common=5.0, frozen=0.0, shapes={"w": (84,)})
    before = delta(base, candidates)["w"]
    chosen = candidates[victim % n]["w"]
    chosen[place] = 2 * base["w"][place] - chosen[place]
    after = delta(base, candidates)["w"]
    untouched = torch.arange(84) != place
    assert torch.equal(before[untouched], after[untouched])
    if before[place] != 0:
        assert after[place] == 0


@pytest.mark.parametrize("rule", RULES)
def test_the_scale_is_linear_and_zero_gives_the_base_to_the_bit(rule):
    base, candidates = make(4)
    merged = delta(base, candidates, rule)
    nothing = dict(unlearn(base, candidates, scale=0, rule=rule))
    assert nothing.keys() == base.keys() and all(torch.equal(nothing[name], base[name]) for name in base)
    for scale in (0.3, 1.0, 2.5):
        moved = dict(unlearn(base, candidates, scale=scale, rule=rule))
        assert torch.equal(moved["steps"], base["steps"])
        for name, value in merged.items():
            torch.testing.assert_close(base[name] - moved[name], scale * value, rtol=1e-4, atol=1e-6)
            assert torch.equal(moved[name], subtract(base[name], value, scale))


@pytest.mark.parametrize("rule", RULES)
def test_tensors_of_one_to_a_hundred_and_twenty_eight_elements_survive(rule):
    """Rules that trim a tensor at their defaults; those that trim at random or over the whole model at other dials.

    What all candidates agree on everywhere leaves the conflict control nothing, so there they disagree everywhere.
    """
    shapes = {f"t{size}": (size,) for size in range(1, 129)}
    base, candidates = make(2, common=20.0, frozen=0.0, shapes=shapes)
    if rule == "conflict":
        candidates[1] = {name: base[name] - 2 * (value - base[name]) for name, value in candidates[0].items()}
    for name, value in delta(base, candidates, rule, **WHOLE.get(rule, {}) if rule != "breadcrumbs" else {}).items():
        assert value.count_nonzero() > 0, name


def test_negmerge_keeps_what_sign_agreement_counts():
    base, candidates = make(6, common=2.0)
    merged = merge(base, candidates)
    dict(merged)
    whole = total(sign_agreement(base, candidates))
    assert (merged.counts.kept, merged.counts.moved, merged.counts.elements) == (
        whole.unanimous,
        whole.moved,
        whole.elements,
    )
    assert sum(whole.histogram) == whole.moved and whole.histogram[0] == 0


def test_running_statistics_follow_their_policy():
    base = {"bn.running_var": torch.ones(3), "bn.running_mean": torch.zeros(3), "w": torch.zeros(3)}
    tuned = [{name: value + 2 for name, value in base.items()}]
    for buffers in ("keep", "recalibrate"):
        kept = merge(base, tuned, buffers=buffers)
        found = dict(kept)
        assert set(found) == set(base) and found["bn.running_var"].count_nonzero() == 0
        assert kept.counts.elements == 3
    merged = merge(base, tuned, buffers="merge")
    assert dict(merged)["bn.running_mean"].tolist() == [2, 2, 2] and merged.counts.elements == 9
    with pytest.raises(CheckpointError, match="running_var would become negative"):
        dict(unlearn(base, tuned, scale=1.0, buffers="merge"))
    assert set(dict(unlearn(base, tuned, scale=0.25, buffers="merge"))) == set(base)


BASE = {"w": torch.zeros(2), "n": torch.tensor(1)}


@pytest.mark.parametrize(
    ("candidates", "complaint"),
    [
        ([{"w": torch.zeros(2)}], "candidate 1 .* missing n"),
        ([BASE | {"w": torch.ones(2)}, BASE | {"x": torch.ones(1)}], "candidate 2 .* extra x"),
        ([BASE | {"w": torch.zeros(3)}], r"shape \[3\], expected \[2\]"),
        ([BASE | {"w": torch.zeros(2, dtype=torch.int32)}], "w is int32, expected float32"),
        ([{f"k{k}": torch.ones(1) for k in range(40)}], "42 differences.* and 32 more"),
    ],
)
def test_candidates_that_differ_are_reported_whole(candidates, complaint):
    for function in (merge, sign_agreement):
        with pytest.raises(MismatchError, match=complaint):
            function(BASE, candidates)


def test_wrong_arguments_are_one_sentence_before_anything_is_read():
    tuned = {"w": torch.ones(2), "n": torch.tensor(1)}
    for call, kind, words in [
        (lambda: merge(BASE, []), ParameterError, "no candidates"),
        (lambda: merge(BASE, [BASE]), ParameterError, "base itself"),
        (lambda: merge(BASE, [tuned], rule="best"), ParameterError, "no rule 'best'"),
        (lambda: merge(BASE, [tuned], buffers="drop"), ParameterError, "buffers"),
        (lambda: merge(BASE, [tuned], engine="fused"), ParameterError, "engine is gone: leave it out"),
        (lambda: merge(BASE, [tuned], nonfinite="maybe"), ParameterError, "nonfinite"),
        (lambda: unlearn(BASE, [tuned], scale=1.0, chunk=64), ParameterError, "chunk is gone: leave it out"),
        (lambda: merge(BASE, [tuned], device="tpu9"), DeviceError, "device"),
        (lambda: next(merge(BASE, [tuned], rule="task-arithmetic", candidate=2)), ParameterError, "candidate is 2"),
        (lambda: unlearn(BASE, [tuned], scale=float("nan")), ParameterError, "scale is nan"),
        (lambda: unlearn(BASE, [tuned], scale=-1), ParameterError, "scale is -1"),
        (lambda: apply_delta(BASE, {"w": torch.ones(2)}, float("inf")), ParameterError, "scale is inf"),
        (lambda: apply_delta(BASE, {"v": torch.ones(2)}, 1.0), MismatchError, "does not fit"),
        (lambda: dict(apply_delta(BASE, [("v", torch.ones(2))], 1.0)), MismatchError, "has v where the base has w"),
        (lambda: dict(apply_delta(BASE, [], 1.0)), MismatchError, "has nothing where"),
        (lambda: votes_needed(0), ParameterError, "no candidates"),
    ]:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="'cuda' is not there"):
        merge(BASE, [{"w": torch.ones(2), "n": torch.tensor(1)}], device="cuda")


@pytest.mark.filterwarnings("ignore:weights are stored in half precision")
def test_half_precision_is_warned_of_and_summed_in_float32():
    base, candidates = make(3, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="half precision"):
        merge(base, candidates)
    assert {value.dtype for value in delta(base, candidates).values()} == {torch.bfloat16}


def test_nothing_that_goes_in_is_changed():
    base, candidates = make(3)
    before = [{name: tensor.clone() for name, tensor in weights.items()} for weights in (base, *candidates)]
    for rule in RULES:
        for value in delta(base, candidates, rule).values():
            value.add_(1)
    for weights, saved in zip((base, *candidates), before, strict=True):
        assert all(torch.equal(weights[name], saved[name]) for name in saved)


def test_pieces_pass_the_stage_in_order_and_unmixed():
    pieces = [Piece("w", k, torch.full((k + 1,), float(k)), [torch.full((k + 1,), -float(k))]) for k in range(7)]
    for sent, came in zip(pieces, staged(iter(pieces), torch.device("cpu")), strict=True):
        assert came.start == sent.start and torch.equal(came.base, sent.base)
        assert torch.equal(came.candidates[0], sent.candidates[0])


@pytest.mark.slow
def test_merging_opens_no_file_and_knows_no_model():
    code = (
        "import sys; before = set(sys.modules); import torch\n"
        "sys.addaudithook(lambda event, args: print('OPENED', args[0]) if event == 'open' and isinstance(args[0], str)"
        " and args[0].endswith(('.safetensors', '.pt', '.json')) else None)\n"
        "import negmerge_kit.merging\n"
        "models = ('safetensors', 'open_clip', 'timm', 'torchvision')\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in models))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
