"""Every rule and every dial against its NumPy oracle, over numbers of candidates, dtypes and chunk sizes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from negmerge_kit.errors import CheckpointError, ParameterError
from negmerge_kit.merging import RULES, merge
from tests import oracles
from tests.merging.models import arrays, in_chunks, make

OVER = ("moved", "all")
CASES = [
    ("negmerge", {}),
    *[
        ("negmerge", {"agreement": r, "average": average, "over": over})
        for r in (1.0, 0.8, 0.55)
        for average in ("mean", "median", "min", "max")
        for over in ("agreeing", "all")
    ],
    ("uniform", {}),
    ("task-arithmetic", {}),
    ("magmax", {}),
    ("median", {}),
    ("normalised", {}),
    *[("ties", {"density": density, "trim_over": over}) for density in (0.01, 0.2, 0.7, 1.0) for over in OVER],
    *[
        ("breadcrumbs", {"density": d, "gamma": gamma, "trim_over": over})
        for d, gamma in ((0.85, 0.01), (0.3, 0.1), (1.0, 0.0))
        for over in OVER
    ],
    *[("consensus-mask", {"lam": lam, "k": k}) for lam, k in ((0.4, 2), (0.2, 1), (0.6, 5))],
    ("emr", {}),
    ("conflict", {}),
    ("conflict", {"agreement": 0.7}),
    ("top-magnitude", {}),
    ("top-magnitude", {"agreement": 0.7}),
    *[("dare", {"drop": drop, "seed": seed}) for drop, seed in ((0.5, 0), (0.3, 7), (0.0, 1), (0.99, 2))],
    *[("random-mask", {"agreement": r, "seed": seed}) for r, seed in ((1.0, 0), (1.0, 9), (0.7, 3))],
]
ROUNDED = {"ties", "emr", "normalised"}  # their sums are float64 in the oracle


def run(base, candidates, rule, params, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return dict(merge(base, candidates, rule=rule, **options, **params))


FEW = {"a": (5, 3), "b": (1,), "c": (), "e": (0, 4), "f": (21,)}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def check(base, candidates, rule, params, dtype):
    expected = getattr(oracles, rule.replace("-", "_"))(arrays(base, candidates), **params)
    found = run(base, candidates, rule, params)
    for name, values in expected.items():
        want = torch.from_numpy(np.asarray(values)).to(dtype)
        if rule not in ROUNDED:
            assert torch.equal(found[name], want), (len(candidates), name)
        else:
            assert torch.equal(found[name] == 0, want == 0), (len(candidates), name)
            tolerance = 1e-6 if dtype in (torch.float32, torch.float64) else 1e-2
            torch.testing.assert_close(found[name], want, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rule", "params"), CASES, ids=str)
def test_a_rule_is_its_oracle(rule, params, dtype):
    for n in (1, 2, 3, 5, 8):
        base, candidates = make(n, seed=n, dtype=dtype)
        check(base, candidates, rule, params, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "params"), CASES, ids=str)
def test_a_rule_is_its_oracle_from_one_to_forty_candidates(rule, params):
    """Precisions take turns, so that each meets every rule at ten numbers of candidates."""
    for n in range(1, 41):
        dtype = DTYPES[n % 4]
        base, candidates = make(n, seed=n, dtype=dtype, common=4.0, frozen=0.002, shapes=FEW)
        check(base, candidates, rule, params, dtype)


@pytest.mark.parametrize(("rule", "params"), CASES, ids=str)
def test_the_chunk_never_changes_a_bit(rule, params, monkeypatch):
    base, candidates = make(4, seed=3)
    whole = run(base, candidates, rule, params)
    for chunk in (1, 2, 17, 128):
        in_chunks(monkeypatch, chunk)
        split = run(base, candidates, rule, params)
        assert all(torch.equal(split[name].view(torch.int32), whole[name].view(torch.int32)) for name in whole)


def test_task_arithmetic_takes_the_candidate_that_is_named():
    for dtype in DTYPES:
        base, candidates = make(4, seed=2, dtype=dtype, shapes=FEW)
        for candidate in range(1, 5):
            check(base, candidates, "task-arithmetic", {"candidate": candidate}, dtype)


@pytest.mark.parametrize("rule", RULES)
def test_every_chunk_from_one_to_the_whole_gives_the_same_bits(rule, monkeypatch):
    base, candidates = make(3, seed=3, shapes=FEW)
    whole = run(base, candidates, rule, {})
    for chunk in range(1, 23):
        in_chunks(monkeypatch, chunk)
        split = run(base, candidates, rule, {})
        assert all(torch.equal(split[name].view(torch.int32), whole[name].view(torch.int32)) for name in whole)


def test_random_rules_repeat_with_their_seed_and_differ_between_seeds():
    base, candidates = make(4, seed=1)
    for rule in ("dare", "random-mask"):
        one, again, other = (run(base, candidates, rule, {"seed": seed}) for seed in (5, 5, 6))
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_dare_drops_the_share_that_it_says_and_keeps_the_mean():
    base = {"w": torch.zeros(200_000)}
    candidates = [{"w": torch.randn(200_000, generator=torch.Generator().manual_seed(k)) + 1} for k in range(2)]
    for drop in (0.0, 0.3, 0.9):
        single = run(base, candidates[:1], "dare", {"drop": drop})["w"]
        assert (single == 0).float().mean().item() == pytest.approx(drop, abs=0.005)
        merged = run(base, candidates, "dare", {"drop": drop})["w"]
        assert merged.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(run(base, candidates, "dare", {"drop": 0.0})["w"], run(base, candidates, "uniform", {})["w"])


def test_controls_keep_as_many_elements_of_each_tensor_as_negmerge():
    base, candidates = make(5, seed=9)
    uniform = run(base, candidates, "uniform", {})
    for agreement in (1.0, 0.8):
        kept = run(base, candidates, "negmerge", {"agreement": agreement})
        for rule in ("random-mask", "top-magnitude"):
            control = run(base, candidates, rule, {"agreement": agreement})
            for name in kept:
                assert control[name].count_nonzero() == kept[name].count_nonzero(), (rule, name)
                chosen = control[name] != 0
                assert torch.equal(control[name][chosen], uniform[name][chosen])
        rest = run(base, candidates, "conflict", {"agreement": agreement})
        assert all(not ((rest[name] != 0) & (kept[name] != 0)).any() for name in kept)


def test_a_random_mask_is_spread_evenly():
    base = {"w": torch.zeros(100_000)}
    generator = torch.Generator().manual_seed(0)
    candidates = [{"w": torch.randn(100_000, generator=generator)} for _ in range(3)]
    kept = (run(base, candidates, "random-mask", {})["w"] != 0).float()
    halves = kept[:50_000].mean(), kept[50_000:].mean()
    assert halves[0].item() == pytest.approx(0.25, abs=0.01)
    assert halves[1].item() == pytest.approx(0.25, abs=0.01)


def test_every_rule_describes_itself():
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.paper.startswith("https://arxiv.org/abs/")
        assert rule.explains.endswith(".") and "\n" not in rule.explains and len(rule.explains) < 160
        for parameter in rule.parameters:
            assert parameter.check(parameter.default) == parameter.default
            assert parameter.explains.endswith(".")
            assert parameter.choices if parameter.kind == "choice" else parameter.step


@pytest.mark.parametrize(
    "params",
    [
        {"agreement": 0.5},
        {"agreement": 1.1},
        {"agreement": float("nan")},
        {"agreement": "many"},
        {"agreement": True},
        {"average": "mode"},
        {"over": "some"},
        {"density": 0.2},
    ],
    ids=str,
)
def test_a_wrong_dial_is_one_clear_sentence(params):
    with pytest.raises(ParameterError, match=next(iter(params))) as caught:
        merge({"w": torch.zeros(1)}, [{"w": torch.ones(1)}], **params)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("rule", RULES)
def test_shared_tensors_merge_as_copies_do(rule):
    """A tensor that no candidate moved may be the base's own object; it counts, and its delta is zero."""
    generator = torch.Generator().manual_seed(5)
    base = {"moved": torch.randn(40, 7, generator=generator), "frozen": torch.randn(300, generator=generator)}
    tuned = [{**base, "moved": base["moved"] + torch.randn(40, 7, generator=generator)} for _ in range(4)]
    copies = [{name: tensor.clone() for name, tensor in candidate.items()} for candidate in tuned]
    chosen = slice(0, 1) if rule == "task-arithmetic" else slice(None)
    shared, copied = merge(base, tuned[chosen], rule=rule), merge(base, copies[chosen], rule=rule)
    ours, theirs = dict(shared), dict(copied)
    assert all(torch.equal(ours[name], theirs[name]) for name in base)
    assert shared.counts == copied.counts and shared.counts.elements == 580


def test_a_shared_tensor_that_is_not_finite_is_refused():
    base = {"w": torch.ones(3), "frozen": torch.tensor([1.0, float("nan")])}
    with pytest.raises(CheckpointError, match="frozen"):
        dict(merge(base, [{**base, "w": torch.zeros(3)}]))
    merged = dict(merge(base, [{**base, "w": torch.zeros(3)}], nonfinite="pass"))
    assert torch.equal(merged["frozen"], torch.zeros(2))


def test_ties_trims_what_moved_unless_asked_for_all():
    """A fifth of a model of which an eighth moved is more than ever moved: such a trim trims nothing."""
    generator = torch.Generator().manual_seed(0)
    base = {"frozen": torch.zeros(700), "w": torch.zeros(100)}
    tuned = [{"frozen": torch.zeros(700), "w": torch.randn(100, generator=generator)} for _ in range(3)]
    everything = merge(base, tuned, rule="ties", trim_over="all")
    assert dict(everything) and everything.counts.kept == everything.counts.moved == 100
    trimmed = merge(base, tuned, rule="ties")
    kept = [set(candidate["w"].abs().topk(21).indices.tolist()) for candidate in tuned]
    assert set(dict(trimmed)["w"].nonzero().flatten().tolist()) == set.union(*kept)
    alone = [{"w": weights["w"]} for weights in (base, *tuned)]
    assert torch.equal(dict(merge(alone[0], alone[1:], rule="ties"))["w"], dict(merge(base, tuned, rule="ties"))["w"])


def test_a_record_without_the_dial_means_what_was_done_before_it():
    for rule in ("ties", "breadcrumbs"):
        assert RULES[rule].recorded({})["trim_over"] == "all" and RULES[rule].resolve({})["trim_over"] == "moved"
        assert RULES[rule].recorded({"trim_over": "moved"})["trim_over"] == "moved"
    assert RULES["negmerge"].recorded({}) == RULES["negmerge"].resolve({})
