"""The teaching figures, checked by their data: what is drawn is what was measured, and the title says it."""

import pytest
import torch
from matplotlib import rcParams
from matplotlib.colors import to_hex

from negmerge_kit.analysis.why_signs import ZeroRatio
from negmerge_kit.image_set import ImageSet
from negmerge_kit.merging.agreement import LayerAgreement
from negmerge_kit.plots.agreement_map import agreement_map
from negmerge_kit.plots.before_after import Answered, Lost, before_after, shown_places
from negmerge_kit.plots.curve_panels import Curve, curve_panels
from negmerge_kit.plots.grid_ranking import grid_ranking
from negmerge_kit.plots.sensitivity import Negated, Spread, sensitivity, sensitivity_by_setting
from negmerge_kit.plots.style import AGREE, FORGET
from negmerge_kit.plots.votes import coin_votes, consensus_by_count, shares_of_what, vote_histogram
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring import Accuracy, Point
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.evaluation import Scores


def lines(axes, gid):
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def title(figure):
    return figure.get_suptitle().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def scores(forget, retain=90, n=100):
    return Scores(Accuracy(forget, n, "test"), Accuracy(retain, n, "test"), {})


BLOCKS = [
    LayerAgreement("visual.transformer.resblocks.0.mlp.c_fc.weight", 100, 100, (0, 0, 60, 40)),
    LayerAgreement("visual.transformer.resblocks.1.mlp.c_fc.weight", 100, 100, (0, 0, 90, 10)),
    LayerAgreement("visual.proj", 10, 10, (0, 0, 2, 8)),
]


def test_coins_vote_by_the_binomial():
    assert sum(coin_votes(8)) == pytest.approx(1) and coin_votes(8)[-1] == 2 / 2**8
    assert coin_votes(4) == [0.0, 6 / 16, 8 / 16, 2 / 16]


def test_histogram_shows_shares_of_what_moved_over_coins():
    figure = vote_histogram(BLOCKS[0], votes=3, of="block 1")
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.0, 0.6, 0.4]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == ["#ffffff", "#ffffff", AGREE]
    assert list(lines(axes, "chance")[0].get_ydata()) == coin_votes(3)
    assert lines(axes, "threshold")[0].get_xdata()[0] == 2.5
    assert title(figure) == "In block 1, 40.0 % of 100 moved elements have 3 of 3 votes; chance gives 25.0 %"


def test_zeros_as_candidates_join():
    sizes = [ZeroRatio(1, 0.0, 0.0, 0.0, 0.0, 0.0), ZeroRatio(2, 0.3, 0.2, 0.4, 0.5, 0.35)]
    figure = consensus_by_count(sizes)
    axes = figure.axes[0]
    assert [list(lines(axes, gid)[0].get_ydata()) for gid in ("zeros", "chance", "expected")] == [
        [0.0, 0.3],
        [0.0, 0.5],
        [0.0, 0.35],
    ]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == 0.4
    assert title(figure) == "With 2 candidates 30.0 % of what moved becomes zero; by chance 50.0 %"


def test_shares_name_three_denominators():
    layers = [LayerAgreement("w", 100, 50, (0, 0, 40, 10))]
    figure = shares_of_what(layers, whole=1000)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1000, 100, 50, 10, 10, 10]
    texts = [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in figure.axes[0].texts]
    assert texts == ["1.0 % of 1,000", "10.0 % of 100", "20.0 % of 50"]
    assert "1.0 % or 10.0 % or 20.0 %" in title(figure)


def test_the_map_has_blocks_down_kinds_across_and_the_rest_at_the_foot():
    figure = agreement_map(BLOCKS, votes=3, chance=0.25)
    axes = figure.axes[0]
    written = [text.get_text() for text in axes.texts]
    assert written == ["40", "10", "80", "proj"]
    shades = axes.collections[0].get_array()
    assert list(shades) == pytest.approx([0.15 / 0.55, 0.0, 1.0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["block 1", "block 2"]
    assert "highest in proj (80.0 %) and lowest in b2 mlp (10.0 %)" in title(figure)
    figure.draw_without_rendering()
    squares, points = axes.collections[0], figure.dpi / 72
    foot = axes.transData.transform(squares.get_offsets()[-1])[1] - squares.get_sizes()[0] ** 0.5 / 2 * points
    assert axes.texts[-1].get_window_extent().y1 < foot - 3 * points  # a label stands clear of its square


@pytest.fixture
def families():
    def one(lr, forget, **settings):
        return Negated(Recipe(lr=lr, epochs=4, **settings), scores(forget))

    plain = Spread(scores(80, 95), (one(1e-3, 40), one(1e-3, 52), one(2e-3, 60)), {"negmerge": scores(45)})
    augmented = Spread(scores(90, 96), (one(1e-3, 70, augment="rand-m2-n1-mstd0.5"),), {"negmerge": scores(65)})
    return {"digits": plain, "shapes": augmented}


def test_sensitivity_draws_every_candidate_with_both_intervals(families):
    figure = sensitivity(families, keep=0.9)
    first = figure.axes[0]
    (alone,) = lines(first, "alone")
    assert list(alone.get_ydata()) == [0.4, 0.52, 0.6] and list(alone.get_xdata()) == [0.9] * 3
    assert list(lines(first, "base")[0].get_ydata()) == [0.8] and list(lines(first, "negmerge")[0].get_ydata()) == [
        0.45
    ]
    assert set(lines(first, "floor")[0].get_xdata()) == {0.9 * 0.95}
    bars = [path.vertices for collection in first.collections for path in collection.get_paths()]
    low, high = Accuracy(40, 100, "test").interval
    assert any(bar[:, 1].min() == pytest.approx(low) and bar[:, 1].max() == pytest.approx(high) for bar in bars)
    assert title(figure) == (
        "What one candidate leaves depends on its hyperparameters: digits 40.0 % to 60.0 %; shapes 70.0 % to 70.0 %"
    )
    assert "n = 100" in first.get_title(loc="left")


def test_settings_are_told_apart_and_the_gap_within_one_value_is_told(families):
    figure = sensitivity_by_setting(families)
    rates, *_, augmentation = figure.axes
    assert [label.get_text() for label in rates.get_xticklabels()] == ["1e-3", "2e-3"]
    assert [label.get_text() for label in augmentation.get_xticklabels()] == ["none", "m2-n1"]
    assert list(lines(augmentation, "shapes")[0].get_ydata()) == [0.7]
    assert title(figure).endswith("(1e-3, digits), what candidates leave still differs by 12.0 points")


def test_panels_share_the_scale_and_mark_the_choice():
    base = Point(0.0, Accuracy(80, 100, "val"), Accuracy(90, 100, "val"))
    point = Point(0.5, Accuracy(40, 100, "val"), Accuracy(88, 100, "val"))
    figure = curve_panels({"a": Curve(base, [point], point), "b": Curve(base, [])}, keep=0.95, finding="So it is.")
    a, b = figure.axes
    forget = lines(a, "forget")[0].get_ydata()  # NaN where a scale in between was not measured
    assert [value for value in forget if value == value] == [0.8, 0.4]
    assert list(lines(a, "best")[0].get_xdata()) == [0.5, 0.5]
    assert set(lines(a, "floor")[0].get_ydata()) == {0.95 * 0.9} and not lines(b, "best")
    assert title(figure) == "So it is."


def test_grids_show_the_point_that_each_chose_and_leave_out_the_infeasible():
    point = Point(0.5, Accuracy(40, 100, "val"), Accuracy(88, 100, "val"))
    chosen = {"coarse": {"negmerge": point, "uniform": None}, "fine": {"negmerge": point, "uniform": point}}
    axes = grid_ranking(chosen, finding="f").axes[0]
    assert len(lines(axes, "negmerge")[0].get_xdata()) == 2 and len(lines(axes, "uniform")[0].get_xdata()) == 1
    assert to_hex(lines(axes, "negmerge")[0].get_color()) == FORGET
    assert [text.get_text() for text in axes.texts] == ["0.5"] * 3 and "n = 100" in axes.get_ylabel()


def test_pictures_carry_both_answers():
    def one(side, name, before, after):
        return Answered(side, "f", torch.zeros(3, 4, 4, dtype=torch.uint8), name, before, after)

    lost = {"forget": Lost(92, 205), "retain": Lost(3, 1200)}
    figure = before_after([one("forget", "7", "7", "1"), one("retain", "A", "A", "A")], lost)
    assert [axes.get_title() for axes in figure.axes] == ["7", "A"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["was 7 ✓", "now 1 ✗"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["was A ✓", "now A ✓"]
    assert title(figure) == (
        "No longer correct, of what the base gets right on test: forget 92 of 205; retain 3 of 1,200"
    )


@pytest.mark.parametrize("each", [1, 2, 3, 7])
def test_shown_places_are_drawn_at_random_among_what_the_base_gets_right(each):
    def images(name, n=60):
        labels = torch.arange(n) % 8
        return ImageSet(name, torch.zeros(n, 3, 4, 4, dtype=torch.uint8), labels, tuple("abcdefgh"), "test")

    splits = Splits(images("x"), (images("y"), images("z")))
    right = [torch.arange(60) % 3 == number for number in range(3)]
    places = shown_places(splits, right, each)
    assert len(places[0]) == each and sum(map(len, places[1:])) == each
    for part, mask in zip(places, right, strict=False):
        assert all(mask[place] for place in part) and len(set(part)) == len(part)
    assert shown_places(splits, right, each) == places
    drawn = [shown_places(splits, right, each, seed=seed) for seed in range(8)]
    assert len({str(one) for one in drawn}) > 1, "the seed draws"
    assert shown_places(splits, [torch.arange(60) == 5, *right[1:]], each)[0] == [5], "no wrong one fills up"


def test_drawing_leaves_matplotlib_as_it_was(families):
    before = dict(rcParams)
    sensitivity(families, keep=0.9)
    vote_histogram(BLOCKS[0], votes=3)
    assert dict(rcParams) == before
