"""Figures are checked by their data: lines, bars, labels and the sentence in the title."""

from itertools import groupby
from math import isfinite, nan

import pytest
from matplotlib import rcParams
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from negmerge_kit.merging.agreement import LayerAgreement
from negmerge_kit.merging.health import Health
from negmerge_kit.plots import scale_curve
from negmerge_kit.plots.pool_health import health_finding, pool_health
from negmerge_kit.plots.style import AGREE, FORGET, RETAIN
from negmerge_kit.scoring import Accuracy, Point


def point(scale, forget, retain, n=200):
    return Point(scale, Accuracy(forget, n, "val"), Accuracy(retain, n, "val"))


BASE = point(0.0, 160, 180)
CURVE = [point(1.0, 60, 150), point(0.5, 100, 175)]


def drawn(figure, gid):
    """The artist with this gid."""
    (artist,) = [artist for artist in figure.axes[0].get_lines() if artist.get_gid() == gid]
    return artist


def marked(figure, gid):
    """(scale, value) of every mark."""
    return [(x, y) for x, y in drawn(figure, gid).get_xydata().tolist() if isfinite(y)]


def strokes(figure, gid):
    """The scales of each stretch that a line joins."""
    line = [x if isfinite(y) else nan for x, y in drawn(figure, gid).get_xydata().tolist()]
    return [list(part) for there, part in groupby(line, isfinite) if there]


def test_no_line_runs_through_what_was_not_measured():
    points = [point(0.05, 150, 180), point(0.8, 70, 175), point(0.85, 60, 172)]
    figure = scale_curve.scale_curve(points, base=BASE, keep=0.95)
    for gid in ("forget", "retain"):
        assert strokes(figure, gid) == [[0.0, 0.05], [0.8, 0.85]]
    # A scale between two near ones that was looked at and given up breaks the line, too; its neighbour then stands
    # alone, and has its interval as a bar.
    given_up = Point(0.8, None, None, "forgets less than a scale already found")
    figure = scale_curve.scale_curve([point(0.75, 80, 176), given_up, point(0.85, 60, 172)], base=BASE, keep=0.95)
    assert strokes(figure, "forget") == [[0.0], [0.75], [0.85]]
    bars = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert len(bars) == 2 and len(bars[0].get_segments()) == 3
    assert bars[1].get_segments()[2][:, 1].tolist() == pytest.approx(Accuracy(60, 200, "val").interval)


def test_a_curve_that_goes_far_has_a_longer_axis_and_says_what_is_missing():
    far = [point(s, 150 - int(8 * s), 180 - int(s)) for s in (1.0, 2.0, 4.0, 8.0, 8.4, 8.8)]
    figure = scale_curve.scale_curve(far, base=BASE, keep=0.95, note="filling in 7 of 21 scales")
    assert figure.axes[0].get_xlim() == (0, 12.0)
    assert strokes(figure, "forget") == [[0.0, 1.0, 2.0], [4.0], [8.0, 8.4, 8.8]]
    assert "filling in 7 of 21 scales" in [text.get_text() for text in figure.axes[0].texts]


def test_curve_draws_the_scores_in_order_of_scale_from_the_base():
    figure = scale_curve.scale_curve(CURVE, base=BASE, keep=0.95)
    assert marked(figure, "forget") == [(0.0, 0.8), (0.5, 0.5), (1.0, 0.3)]
    assert marked(figure, "retain") == [(0.0, 0.9), (0.5, 0.875), (1.0, 0.75)]
    assert to_hex(drawn(figure, "forget").get_color()) == FORGET
    assert to_hex(drawn(figure, "retain").get_color()) == RETAIN


def test_curve_has_bands_floor_and_n():
    figure = scale_curve.scale_curve(CURVE, base=BASE, keep=0.95)
    axes = figure.axes[0]
    assert set(drawn(figure, "floor").get_ydata()) == {0.95 * 0.9}
    lows = [path.vertices[:, 1].min() for band in axes.collections for path in band.get_paths() if len(path)]
    assert min(lows) == pytest.approx(Accuracy(60, 200, "val").interval[0])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["retain (n = 200)", "forget (n = 200)"]
    assert "validation" in axes.get_xlabel() and "scale" in axes.get_xlabel()


def test_scores_that_were_stopped_early_are_left_out():
    stopped = Point(0.75, None, None, "retention cannot reach the floor")
    figure = scale_curve.scale_curve([*CURVE, stopped], base=BASE, keep=0.95)
    assert 0.75 not in drawn(figure, "forget").get_xdata()


def test_best_scale_is_marked_and_told():
    best = CURVE[1]
    figure = scale_curve.scale_curve(CURVE, base=BASE, keep=0.95, best=best)
    assert list(drawn(figure, "best").get_xdata()) == [0.5, 0.5]
    assert list(drawn(figure, "best").get_ydata()) == [0.5, 0.875]
    title = figure.texts[0].get_text().replace("\N{NO-BREAK SPACE}", " ")
    assert title == "Scale 0.5: forget 80.0 % → 50.0 %, retain keeps 97.2 %"


def test_a_second_series_is_drawn_behind():
    figure = scale_curve.scale_curve(CURVE, base=BASE, keep=0.95, behind=[CURVE[0], point(1.5, 20, 100, 50)])
    assert [x for x, _ in marked(figure, "forget-behind")] == [1.0, 1.5]
    assert "thin: live subset, n = 200" in figure.axes[0].get_xlabel()
    assert drawn(figure, "forget-behind").get_zorder() <= drawn(figure, "forget").get_zorder()


@pytest.mark.parametrize(
    ("points", "keep", "says"),
    [
        ([], 0.95, "The base alone"),
        ([point(0.5, 20, 20)], 0.95, "No scale drawn here keeps 95"),
        (CURVE, 0.95, "floor held to 0.5"),
    ],
)
def test_the_finding_fits_the_data(points, keep, says):
    assert says in scale_curve.curve_finding(points, base=BASE, keep=keep)


def test_the_app_can_lay_a_marker_over_the_curve():
    axes = scale_curve.scale_curve(CURVE, base=BASE, keep=0.95, titled=False).axes[0]
    assert axes.get_position().bounds == pytest.approx(scale_curve.CURVE_AREA)
    assert axes.get_xlim() == (0, scale_curve.LARGEST_SCALE) and axes.get_ylim() == (0, 1)


LAYERS = [
    LayerAgreement("visual.proj", 100, 100, (0, 0, 60, 40)),
    LayerAgreement("visual.transformer.resblocks.0.attn.in_proj_q_weight", 100, 80, (0, 0, 60, 20)),
    LayerAgreement("visual.transformer.resblocks.0.attn.in_proj_q_bias", 20, 20, (0, 0, 0, 20)),
    LayerAgreement("visual.conv1.weight", 100, 50, (0, 0, 45, 5)),
]


def test_bars_add_up_tensors_of_a_layer_and_follow_the_network():
    shares = scale_curve.agreement_shares(LAYERS, votes=3)
    assert shares == {"patch": 0.1, "b1 q": 0.4, "proj": 0.4}
    assert scale_curve.agreement_shares(LAYERS, votes=2) == {"patch": 1.0, "b1 q": 1.0, "proj": 1.0}


@pytest.mark.parametrize("upright", [True, False])
def test_bars_and_chance_line(upright):
    figure = scale_curve.agreement_by_layer(LAYERS, votes=3, chance=0.25, upright=upright)
    axes = figure.axes[0]
    lengths = [bar.get_height() if upright else bar.get_width() for bar in axes.patches]
    assert lengths == [0.1, 0.4, 0.4]
    assert {to_hex(bar.get_facecolor()) for bar in axes.patches} == {AGREE}
    chance = drawn(figure, "chance")
    assert set(chance.get_ydata() if upright else chance.get_xdata()) == {0.25}
    assert axes.get_legend().get_texts()[0].get_text() == "chance 25.0\N{NO-BREAK SPACE}%"
    assert "All 3 signs agree on 34.0" in figure.texts[0].get_text().replace("\n", " ")


def test_agreement_finding_names_the_denominator_and_the_threshold():
    assert "250 moved elements" in scale_curve.agreement_finding(LAYERS, votes=3, chance=0.25)
    assert scale_curve.agreement_finding(LAYERS, votes=2, chance=1.0).startswith("At least 2 of 3 signs")


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(rcParams)
    scale_curve.scale_curve(CURVE, base=BASE, keep=0.95)
    scale_curve.agreement_by_layer(LAYERS, votes=3, chance=0.25)
    assert dict(rcParams) == before


def test_the_health_of_a_pool_names_the_odd_ones():
    rows = [Health(1.0, 1.0, 0.7), Health(6.0, 6.0, 0.6), Health(0.9, 0.9, -0.4), Health(0.0, None, None)]
    axes = pool_health(["a", "b", "c", "d"], rows).axes[0]
    drawn = {line.get_gid(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert drawn["candidates"] == [(1.0, 0.7)] and drawn["odd"] == [(6.0, 0.6), (0.9, -0.4)]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    for line in ("1  b moved 6.0 times", "2  c points elsewhere", "3  d did not move"):
        assert line in axes.get_xlabel()
    assert health_finding(rows) == "3 of 4 candidates are odd"
