"""The classifiers' figure, checked by its data: points, the retrained model's lines and the sentence in the title."""

import pytest

from negmerge_kit.classifier_eval.metric_set import MetricSet
from negmerge_kit.comparison.compare import Comparison
from negmerge_kit.comparison.methods import find_method
from negmerge_kit.comparison.row import Row
from negmerge_kit.errors import ParameterError
from negmerge_kit.plots.classifier_comparison import standings_figure, standings_finding


def score(value, n=None):
    low, high = (None, None) if value is None or n is None else (value - 0.05, value + 0.05)
    return {"value": value, "n": n, "low": low, "high": high, "split": "test"}


def row(name, gap, forget=0.9):
    scores = {"forget": score(forget, 119), "unseen": score(0.8, 360), "mia": score(0.1, 119)}
    metrics = MetricSet("test", scores | {"gap": score(gap)})
    return Row(find_method(name), (), {}, "ok", None, None, None, None, None, (), None, metrics=metrics)


def comparison(*rows):
    return Comparison("pool", ("a", "b"), 0.95, (0.0, 0.5), {}, rows)


ONE = comparison(row("retrain", 0.0, 0.7), row("negmerge", 0.02), row("salun", 0.01), row("uniform", None))
TWO = comparison(row("retrain", 0.0, 0.8), row("negmerge", 0.04), row("salun", 0.06), row("uniform", 0.03))


def points(axes, gid):
    return [list(line.get_xdata()) for line in axes.get_lines() if line.get_gid() == gid]


def test_points_and_lines_are_the_rows():
    forget, unseen, attack, gap = standings_figure([ONE]).axes
    assert points(forget, "forget-salun") == [[0.9]] and set(points(forget, "forget-line")[0]) == {0.7}
    assert points(gap, "gap-negmerge") == [[0.02]] and points(gap, "gap-uniform") == []
    names = [label.get_text() for label in forget.get_yticklabels()]
    assert names == ["Uniform average", "SalUn", "NegMerge", "Retrain"]  # upwards
    assert forget.get_xlabel() == "%, test (n = 119)\n95 % intervals" and "360" in unseen.get_xlabel()
    assert "n =" not in gap.get_xlabel() and "119" in attack.get_xlabel()


def test_several_pools_are_points_and_their_range():
    forget, *_, gap = standings_figure([ONE, TWO]).axes
    assert points(forget, "forget-retrain") == [[0.7, 0.8]] and set(points(forget, "forget-line")[0]) == {0.75}
    assert forget.get_xlabel().endswith("range of 2 pools") and points(gap, "gap-uniform") == [[0.03]]


def test_the_title_is_as_plain_about_a_loss_as_about_a_win():
    loss = "NegMerge is 2.00 points from the retrained model, 2nd of 2; of the rest SalUn is nearest, 1.00"
    assert standings_finding([ONE]) == f"{loss} (one pool, no interval)"
    tie = "is 3.00 points from the retrained model, median of 2 pools, 1st to 2nd of 3"
    assert tie in standings_finding([ONE, TWO])
    assert standings_finding([TWO]).startswith("NegMerge is 4.00 points from the retrained model, 2nd of 3")
    assert standings_finding([comparison(row("retrain", 0.0))]) == "Nearest to the retrained model is best"


def test_a_comparison_without_metrics_is_refused():
    with pytest.raises(ParameterError, match="standard classifier's pool"):
        standings_figure([])
