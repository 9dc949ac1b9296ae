"""The likelihood ratio attack against a plain loop and by its meaning; the gap against published rows."""

import math

import pytest
import torch

from negmerge_kit.errors import ParameterError, SplitError
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.early_stopping import Point
from negmerge_kit.scoring.gap import GAP_OVER, average_gap, nearest_scale
from negmerge_kit.scoring.lira import log_ratios, scaled_confidence, separation
from negmerge_kit.scoring.metrics import METRICS


def planted(k=8, n=200, lift=3.0, seed=0):
    """Shadow models' confidences, `lift` higher where the image was trained on."""
    draw = torch.Generator().manual_seed(seed)
    inside = torch.zeros(k, n, dtype=torch.bool)
    for column in range(n):
        inside[torch.randperm(k, generator=draw)[: k // 2], column] = True
    hardness = torch.randn(n, generator=draw)
    return hardness, hardness + torch.randn(k, n, generator=draw) + lift * inside, inside


def test_scaled_confidence_is_the_log_odds_of_the_true_class():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(50) % 7
    p = logits.softmax(1)[torch.arange(50), labels]
    assert torch.allclose(scaled_confidence(logits, labels), (p / (1 - p)).log(), atol=1e-9)
    assert bool(torch.isfinite(scaled_confidence(1e4 * logits, labels)).all())


def test_log_ratios_are_a_loops():
    hardness, shadows, inside = planted(k=6, n=30)
    phi = hardness + 1.0

    def side(here):
        means = [[float(s) for s, i in zip(shadows[:, x], here[:, x], strict=True) if i] for x in range(30)]
        centres = [sum(values) / len(values) for values in means]
        squares = sum((v - c) ** 2 for values, c in zip(means, centres, strict=True) for v in values)
        spread = math.sqrt(squares / (sum(map(len, means)) - 30))
        return [-math.log(spread) - (float(p) - c) ** 2 / (2 * spread**2) for p, c in zip(phi, centres, strict=True)]

    expected = [a - b for a, b in zip(side(inside), side(~inside), strict=True)]
    assert log_ratios(phi, shadows, inside).tolist() == pytest.approx(expected, abs=1e-6)


def test_planted_members_are_found_and_strangers_are_not():
    hardness, shadows, inside = planted()
    draw = torch.Generator().manual_seed(5)
    noise = torch.randn(200, generator=draw)
    member = log_ratios(hardness + 3 + noise, shadows, inside)
    stranger = log_ratios(hardness + noise, shadows, inside)
    assert (member > 0).double().mean() > 0.85 and (stranger > 0).double().mean() < 0.15
    found = separation(member, stranger)
    assert found.value > 0.9 and found.low > 0.85 and found.n == 200
    chance = separation(stranger[:100], stranger[100:])
    assert chance.low < 0.5 < chance.high


def test_separation_counts_pairs_and_halves_ties():
    up, down = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([0.0, 2.0, 3.0])
    pairs = [(float(a) > float(b)) + 0.5 * (float(a) == float(b)) for a in up for b in down]
    assert separation(up, down).value == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    with pytest.raises(ParameterError, match="no image"):
        separation(up, down[:0])
    apart = separation(up + 9, down)
    assert apart.value == apart.high == 1.0 and 0.4 < apart.low < 0.7


def test_shadow_models_that_cannot_tell_are_refused():
    _, shadows, inside = planted(k=4, n=5)
    with pytest.raises(ParameterError, match="halves"):
        log_ratios(torch.zeros(5), shadows, torch.ones_like(inside))
    with pytest.raises(ParameterError, match="do not fit"):
        log_ratios(torch.zeros(4), shadows, inside)
    with pytest.raises(ParameterError, match="2\\+ classes"):
        scaled_confidence(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))


@pytest.mark.parametrize(
    ("row", "gap"),
    [
        ((1.0, 0.9476, 0.9426, 0.1288), 0.0),
        ((0.9836, 0.9485, 0.9149, 0.1091), 1.62),
        ((0.992, 0.9893, 0.932, 0.0267), 4.06),
    ],
)
def test_published_gaps_follow_from_their_rows(row, gap):
    retrained = dict(zip(GAP_OVER, (1.0, 0.9476, 0.9426, 0.1288), strict=True))
    assert 100 * average_gap(dict(zip(GAP_OVER, row, strict=True)), retrained) == pytest.approx(gap, abs=0.006)


def point(scale, gap, split="val"):
    return Point(scale, Accuracy(9, 10, split), Accuracy(8, 10, split), gap=gap)


def test_the_nearest_scale_is_the_smallest_of_equals_and_never_chosen_on_test():
    seen = []
    found = nearest_scale(lambda s: point(s, abs(s - 0.5)), scales=[1.0, 0.25, 0.75, 0.0], on_point=seen.append)
    assert found.best.scale == 0.25 and [p.scale for p in found.curve] == [0.0, 0.25, 0.75, 1.0]
    assert tuple(seen) == found.curve and found.choose == "gap" and found.status == "ok"
    assert nearest_scale(lambda s: point(s, s)).best.scale == 0.0
    with pytest.raises(SplitError, match="test"):
        nearest_scale(lambda s: point(s, 0.1, "test"))
    with pytest.raises(ParameterError, match="no scale"):
        nearest_scale(lambda s: point(s, 0.1), scales=[])
    with pytest.raises(ParameterError, match="without its gap"):
        nearest_scale(lambda s: point(s, None))
    with pytest.raises(ParameterError, match="mia"):
        average_gap({"retain": 1.0, "forget": 1.0, "unseen": 1.0}, dict.fromkeys(GAP_OVER, 0.5))


def test_every_metric_tells_what_it_is():
    for name, metric in METRICS.items():
        assert metric.name == name and metric.direction in ("target", "down", "up")
        assert all(text.strip() for text in (metric.title, metric.formula, metric.target, metric.source)), name
    assert set(GAP_OVER) <= set(METRICS)
