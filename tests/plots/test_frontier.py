"""The comparison's figure, checked by its data: marks, ranges, lines and the sentence in the title."""

from dataclasses import replace
from math import isfinite

import pytest
from matplotlib.colors import to_hex

from negmerge_kit.comparison.compare import Comparison
from negmerge_kit.comparison.matched_retention import FloorCrossing
from negmerge_kit.comparison.methods import find_method
from negmerge_kit.comparison.row import Matched, Row
from negmerge_kit.errors import ParameterError
from negmerge_kit.plots.frontier import frontier_finding, rule_frontier
from negmerge_kit.plots.style import FORGET, RETAIN
from negmerge_kit.scoring import Accuracy, Point
from negmerge_kit.scoring.accuracy import Pair
from negmerge_kit.scoring.paired_bootstrap import Effect, Resampled
from negmerge_kit.unlearning.cost import Cost


def pair(forget, retain, split="test"):
    return Pair(Accuracy(forget, 100, split), Accuracy(retain, 100, split))


def row(name, matched, protocol):
    crossing = Matched(FloorCrossing(0.6, (0.55, 86), (0.65, 85)), matched / 100, pair(matched, 85), 4, 1.0)
    points = tuple(
        Point(s, Accuracy(80 - int(50 * s), 100, "val"), Accuracy(90 - int(8 * s), 100, "val"))
        for s in (0.25, 0.5, 0.75)
    )
    cost = Cost(1.0, 0.1, 2.0, "cpu", None, 20, 900)
    return Row(
        find_method(name),
        ("a", "b"),
        {},
        "ok",
        0.5,
        pair(protocol, 87, "val"),
        pair(protocol, 87),
        crossing,
        0.4,
        points,
        cost,
    )


def comparison(*rows):
    base = {"val": pair(82, 90, "val"), "test": pair(80, 91)}
    return Comparison("pool", ("a", "b"), 0.95, (0.0, 0.5), base, rows)


ONE = comparison(row("negmerge", 40, 45), row("uniform", 44, 46), row("greedy", 36, 41), row("random-mask", 47, 70))


def drawn(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def test_marks_are_the_rows_and_the_best_rule_is_on_top():
    figure = rule_frontier([ONE])
    forget, retain, curves = figure.axes
    for name, matched, protocol in (("negmerge", 0.40, 0.45), ("random-mask", 0.47, 0.70)):
        (mark,) = drawn(forget, f"forget-matched-{name}")
        assert list(mark.get_xdata()) == [matched] and to_hex(mark.get_color()) == FORGET
        (mark,) = drawn(forget, f"forget-protocol-{name}")
        assert list(mark.get_xdata()) == [protocol] and mark.get_markerfacecolor() == "white"
        (mark,) = drawn(retain, f"retain-matched-{name}")
        assert list(mark.get_xdata()) == [0.85] and to_hex(mark.get_color()) == RETAIN
    labels = [label.get_text() for label in forget.get_yticklabels()]
    assert labels == ["Control: random mask", "Uniform average", "NegMerge", "Greedy selection"]  # upwards
    assert set(drawn(forget, "base")[0].get_xdata()) == {0.80}
    assert list(drawn(retain, "floor")[0].get_xdata()) == pytest.approx([0.95 * 0.91] * 2)
    (line,) = drawn(curves, "frontier-negmerge")
    assert [x for x in line.get_xdata() if isfinite(x)] == [0.9, 0.88, 0.86, 0.84]
    assert [y for y in line.get_ydata() if isfinite(y)] == [0.82, 0.68, 0.55, 0.43]


def live(name, scales):
    """A row with a frontier on the live subset at these scales."""
    points = tuple(
        Point(s, Accuracy(40 - int(20 * s / 8), 50, "live"), Accuracy(45 - int(s / 2), 50, "live")) for s in scales
    )
    return replace(row(name, 40, 45), frontier=points)


def test_the_frontier_is_drawn_through_live_points_and_joins_no_gap():
    made = comparison(live("negmerge", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), live("uniform", [1.0, 6.0, 7.0, 8.0]))
    made = replace(made, base={**made.base, "live": Pair(Accuracy(41, 50, "live"), Accuracy(46, 50, "live"))})
    curves = rule_frontier([made]).axes[2]
    (whole,), (gapped,) = drawn(curves, "frontier-negmerge"), drawn(curves, "frontier-uniform")
    assert all(isfinite(x) for x in whole.get_xdata()) and len(whole.get_xdata()) == 9
    assert [isfinite(x) for x in gapped.get_xdata()] == [True, True, False, True, True, True]
    assert whole.get_xdata()[0] == 46 / 50 and whole.get_marker() == "o"
    assert "n = 50), live subset" in curves.get_xlabel() and "live subset" in curves.get_ylabel()
    assert list(drawn(curves, "frontier-floor")[0].get_xdata()) == pytest.approx([0.95 * 46 / 50] * 2)


def test_axes_tell_split_n_and_what_the_bars_are():
    forget, retain, curves = rule_frontier([ONE]).axes
    assert "test (n = 100; 95 % intervals)" in forget.get_xlabel()
    assert "test (n = 100)" in retain.get_xlabel()
    assert "validation" in curves.get_xlabel() and "validation" in curves.get_ylabel()


def test_several_pools_are_points_with_their_range_and_no_interval():
    other = replace(ONE, rows=tuple(replace(r, matched=replace(r.matched, test=pair(50, 84))) for r in ONE.rows))
    forget = rule_frontier([ONE, other]).axes[0]
    (marks,) = drawn(forget, "forget-matched-negmerge")
    assert list(marks.get_xdata()) == [0.40, 0.50]
    assert "range of 2 pools" in forget.get_xlabel() and "interval" not in forget.get_xlabel()


def test_the_finding_is_plain_about_a_loss_and_a_win():
    told = frontier_finding([ONE]).replace("\N{NO-BREAK SPACE}", " ")
    assert told.startswith("At equal retention, NegMerge forgets to 40.0 %, 2nd of 4; of the rest Greedy selection")
    assert told.endswith("does best, 36.0 % (their intervals overlap)")
    won = comparison(row("negmerge", 30, 45), row("uniform", 44, 46))
    assert "1st of 2" in frontier_finding([won])
    tie = comparison(*(row(name, n, 45) for name, n in (("negmerge", 40), ("uniform", 40), ("greedy", 36))))
    assert "2nd to 3rd of 3" in frontier_finding([tie])
    assert "median of 2 pools" in frontier_finding([won, won])
    assert frontier_finding([won, won]).endswith("(their ranges do not overlap)")
    assert frontier_finding([comparison(row("uniform", 44, 46))]).startswith("1 rules at")


@pytest.mark.parametrize(
    ("low", "high", "says"), [(-0.02, 0.03, "not distinguishable (-2.0 to +3.0"), (0.01, 0.2, "apart")]
)
def test_the_finding_says_whether_images_tell_them_apart(low, high, says):
    effect = Resampled({}, {"matched forget": Effect(0.04, low, high)}, 0.0, 0.0)
    told = frontier_finding([ONE], {"greedy": effect, "negmerge": effect})
    assert says.split(" (")[0] in told and f"{100 * low:+.1f}" in told


def test_a_row_without_a_crossing_comes_last_and_has_no_filled_mark():
    figure = rule_frontier([comparison(*ONE.rows, replace(row("conflict", 1, 2), matched=None, test=None))])
    forget = figure.axes[0]
    assert forget.get_yticklabels()[0].get_text() == "Control: conflict only"
    assert not drawn(forget, "forget-matched-conflict")


def test_nothing_to_draw_is_refused():
    with pytest.raises(ParameterError, match="no row"):
        rule_frontier([])
