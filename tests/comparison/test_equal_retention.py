"""Forgetting at equal retention on test: read between measured points, at the same retention for every rule."""

import json

import pytest

from negmerge_kit.comparison.compare import across, compare_rules
from negmerge_kit.comparison.matched_retention import FLOORS, AtTestRetention, at_test_retention
from negmerge_kit.scoring import Accuracy
from negmerge_kit.scoring.accuracy import Pair
from tests.comparison.small_workbench import GRID, stand


def pair(forget, retain):
    return Pair(Accuracy(round(forget), 10_000, "test"), Accuracy(round(retain), 10_000, "test"))


@pytest.mark.parametrize("start", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("length", [0.3, 1.0, 4.0])
def test_one_curve_walked_at_any_speed_from_anywhere_reads_the_same(start, length):
    def measure(scale):
        at = scale / length
        return pair(9000 - 6000 * at, 10_000 - 700 * at)

    found = at_test_retention(measure, measure(0.0), start * length)
    # Retention of 1 - keep is lost at at = (1 - keep) / 0.07.
    expected = [0.9 - 0.6 * (1 - keep) / 0.07 for keep in FLOORS]
    assert found.forget == pytest.approx(expected, abs=0.002)
    assert found.value == pytest.approx(sum(expected) / len(FLOORS), abs=0.002)
    assert len(found.scales) < 60


def test_a_curve_that_never_falls_has_no_number():
    assert at_test_retention(lambda scale: pair(100, 9000), pair(500, 9000), 1.0) is None


def test_every_row_is_read_at_one_retention_whatever_validation_matched():
    made = stand()
    comparison = compare_rules(made, ["uniform", "negmerge"], scales=GRID)
    scorer, base = comparison.runner.scorer, comparison.base["test"]
    for row in comparison.rows:
        choice = made.choose(row.candidates, row.method.rule, dict(row.method.params))
        points = [scorer.answers(choice, scale, "test").accuracy() for scale in row.equal.scales]
        kept = [retain.value / base.retain.value for _, retain in points]
        assert min(kept) < FLOORS[0] and max(kept) > FLOORS[-1]
        around = [forget.value for forget, _ in points]
        assert min(around) <= row.equal.value <= max(around)
        told = json.loads(json.dumps(row.json()["at_test_retention"]))
        assert told["forget"]["split"] == "test" and told["forget"]["low"] < row.equal.value < told["forget"]["high"]
        assert AtTestRetention.from_json(told) == row.equal
        assert [p.scale for p in row.frontier] == sorted(p.scale for p in row.frontier) and len(row.frontier) == 10
        assert row.frontier[-1].scale > row.matched.crossing.scale and row.frontier[0].forget.split == "live"
    first = across([comparison, comparison])[0]
    assert first["at_test_retention"]["points"] == [comparison.rows[0].equal.value] * 2


def test_a_row_is_the_same_whatever_was_answered_before():
    fresh, asked = stand(), stand()
    choice = asked.choose(rule="uniform")
    for scale in (0.013, 0.37, 0.501, 0.777, 1.3):
        asked.scorer.answers(choice, scale)
    first, second = (compare_rules(made, ["uniform"], scales=GRID).rows[0] for made in (fresh, asked))
    assert second.matched.crossing == first.matched.crossing and second.equal == first.equal
    assert [p.scale for p in second.frontier] == [p.scale for p in first.frontier]
