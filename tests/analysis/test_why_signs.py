"""Why signs: groups add up, steps are of equal length, and what a pool cannot tell is left open."""

import json

import pytest
import torch

from negmerge_kit.analysis.step_along import step_along
from negmerge_kit.analysis.why_signs import why_signs
from negmerge_kit.errors import ParameterError
from negmerge_kit.merging import sign_agreement, total

NAMES = (
    "visual.conv1.weight",
    "visual.transformer.resblocks.0.attn.in_proj_weight",
    "visual.transformer.resblocks.0.mlp.c_fc.weight",
    "visual.transformer.resblocks.1.ln_1.weight",
)


def drawn(n, *, common=1.0, seed=0, kinds=None):
    """Candidates that share a direction, and by kind a second one."""
    random = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(30, 30, generator=random) for name in NAMES} | {"frozen": torch.ones(5)}

    def moves():
        return {name: torch.randn(30, 30, generator=random) for name in NAMES}

    shared, by_kind = moves(), {kind: moves() for kind in set(kinds or [])}
    candidates = []
    for position in range(n):
        own, second = moves(), by_kind[kinds[position]] if kinds else None
        candidates.append(
            {
                name: base[name] + 0.1 * (common * shared[name] + own[name] + (second[name] if second else 0))
                for name in NAMES
            }
            | {"frozen": base["frozen"].clone()}
        )
    return base, candidates


@pytest.mark.slow
def test_gaussian_candidates_agree_as_expected_and_groups_add_up():
    base, candidates = drawn(5)
    found = why_signs(base, candidates)
    assert found.whole.share == pytest.approx(found.whole.expected.value, abs=0.02) and found.whole.share > 4 * 2**-4
    for rows in (found.tensors, found.layers, found.kinds, found.blocks):
        assert sum(row.moved for row in rows) == found.whole.moved == 4 * 900
        assert sum(row.unanimous for row in rows) == found.whole.unanimous
    assert found.whole.unanimous == total(sign_agreement(base, candidates)).unanimous
    assert [row.name for row in found.blocks] == ["outside the blocks", "block 1", "block 2"]
    assert [row.name for row in found.kinds] == ["patch", "q", "k", "v", "mlp", "ln"]
    zeros = [size.mean for size in found.zero_ratio]
    assert zeros == sorted(zeros) and zeros[0] == 0 and zeros[-1] == pytest.approx(1 - found.whole.share)
    for size in found.zero_ratio:
        assert size.least <= size.mean <= size.most and size.expected == pytest.approx(size.mean, abs=0.06)
        assert size.chance == 1 - 2.0 ** (1 - size.n)
    assert all(half.overlap > 2 * half.chance for half in found.halves) and len(found.halves) == 10
    assert found.fields == {} and found.directions == ()
    json.dumps(found.json(), allow_nan=False)


def test_pure_noise_is_at_chance():
    found = why_signs(*drawn(6, common=0.0))
    assert found.whole.share == pytest.approx(found.chance, abs=0.01)
    assert found.whole.expected.value == pytest.approx(found.chance, abs=0.01)


@pytest.mark.slow
def test_the_hyperparameter_that_makes_the_pool_diverse_is_found():
    kinds = ["low", "high"] * 4
    recipes = [
        {"lr": kind, "epochs": position // 4, "batch": 64, "seed": position} for position, kind in enumerate(kinds)
    ]
    fields = why_signs(*drawn(8, kinds=kinds), recipes=recipes).fields
    assert set(fields) == {"lr", "epochs", "seed"} and fields["seed"] is None
    assert fields["lr"].p < 0.05 < fields["epochs"].p
    assert fields["lr"].beyond_chance > 0.2 > fields["epochs"].beyond_chance


def test_a_pool_of_one_and_of_copies():
    base, candidates = drawn(1)
    alone = why_signs(base, candidates, recipes=[{"lr": 1}])
    assert alone.whole.share == alone.chance == 1.0 and alone.halves == () and alone.fields == {}
    copies = why_signs(base, candidates * 3, recipes=[{"lr": 1}, {"lr": 2}, {"lr": 2}])
    assert copies.whole.share == 1.0 and copies.whole.expected.value == pytest.approx(1, abs=1e-2)
    assert copies.fields == {"lr": None} and all(half.cosine == pytest.approx(1) for half in copies.halves)


def test_what_cannot_be_asked():
    base, candidates = drawn(2)
    with pytest.raises(ParameterError, match="did not move"):
        why_signs(base, [dict(base), dict(base)])
    with pytest.raises(ParameterError, match="one of each"):
        why_signs(base, candidates, recipes=[{}])
    with pytest.raises(ParameterError, match="at least one"):
        why_signs(base, [])


@pytest.mark.slow
def test_steps_have_equal_length_and_parts_add_up(bench):
    directions = {direction.part: direction for direction in step_along(bench, shares=(0.6,))}
    consensus, conflict, whole = (directions[part] for part in ("consensus", "conflict", "mean"))
    assert consensus.length**2 + conflict.length**2 == pytest.approx(whole.length**2, rel=1e-5)
    assert consensus.kept + conflict.kept == whole.kept and directions["random mask"].kept == consensus.kept
    base = bench.base_scores("val")
    for direction in directions.values():
        (step,) = direction.steps
        assert step.distance == pytest.approx(0.6 * whole.length)
        assert step.scale * direction.length == pytest.approx(step.distance)
        assert step.forget.low <= step.forget.value <= step.forget.high and step.forget.n == base.forget.n
        told = direction.json()["steps"][0]["forget"]
        assert told["per_unit"] == pytest.approx(step.forget.value / step.distance)
    scores = bench.score(bench.choose(rule="uniform"), whole.steps[0].scale, "val")
    assert whole.steps[0].forget.value == pytest.approx(scores.forget.value - base.forget.value)
    assert whole.steps[0].retain.value == pytest.approx(scores.retain.value - base.retain.value)


@pytest.mark.slow
def test_one_candidate_has_no_conflict_to_step_along(bench):
    directions = step_along(bench, bench.pool.ids[:1], shares=(0.5,))
    assert [len(direction.steps) for direction in directions] == [1, 0, 1, 1]
    with pytest.raises(ParameterError, match="above 0"):
        step_along(bench, shares=(0.0,))
