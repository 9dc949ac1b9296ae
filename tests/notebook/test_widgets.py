"""Widgets are set as a reader sets them, and their figures are checked by their data."""

import pytest
from matplotlib.figure import Figure

from negmerge_kit import notebook
from negmerge_kit.merging import RULES, chance, total
from negmerge_kit.merging.rule import Parameter
from negmerge_kit.notebook.dials import RuleDials, dial
from negmerge_kit.notebook.measured import SCALES
from negmerge_kit.notebook.picker import CandidatePicker
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.evaluation import ImageQueue


def line(figure, gid):
    """(x, y) of the line with this gid."""
    (found,) = [item for axes in figure.axes for item in axes.get_lines() if item.get_gid() == gid]
    return list(found.get_xdata()), list(found.get_ydata())


def here(figure):
    """{side: (scale, accuracy)} of the marker."""
    found = {side: line(figure, f"{side}-here") for side in ("forget", "retain")}
    return {side: (float(x[0]), float(y[0])) for side, (x, y) in found.items()}


@pytest.fixture(scope="module")
def explorer(bench):
    return notebook.unlearn_explorer(bench)


@pytest.mark.slow
def test_the_slider_moves_the_marker_to_the_scores_at_that_scale(explorer, bench):
    for scale in (0.2, 0.85):
        explorer.controls["scale"].value = scale
        scores = bench.score(bench.choose(), scale, "live")
        assert here(explorer.figure) == {"forget": (scale, scores.forget.value), "retain": (scale, scores.retain.value)}
        assert f"{100 * scores.forget.value:.1f}\N{NO-BREAK SPACE}%" in explorer.text


@pytest.mark.slow
def test_the_curve_is_that_of_the_ticked_candidates(explorer, bench):
    ids = bench.pool.ids[:2]
    explorer.controls["candidates"].value = ids
    choice = bench.choose(ids)
    x, y = line(explorer.figure, "forget")
    assert x == [0.0, *SCALES]
    assert y[4] == bench.score(choice, SCALES[3], "live").forget.value
    explorer.controls["candidates"].buttons["all"].click()
    assert explorer.controls["candidates"].value == tuple(bench.pool.ids)


def test_no_candidate_is_told_and_the_figure_stays(explorer, bench):
    before = explorer.figure
    explorer.controls["candidates"].value = ()
    assert "no candidate is selected" in explorer.text and "alert" in explorer.text
    assert explorer.figure is before
    explorer.controls["candidates"].value = bench.pool.ids
    assert "status" in explorer.text


@pytest.mark.slow
def test_rule_and_dials_change_what_is_kept(explorer, bench):
    seen = {}
    for rule, params in (("breadcrumbs", {}), ("uniform", {}), ("negmerge", {}), ("negmerge", {"agreement": 0.6})):
        explorer.controls["rule"].value = (rule, params)
        kept = bench.merged(bench.choose(rule=rule, params=params)).counts.kept_of_moved
        assert f"{100 * kept:.1f}\N{NO-BREAK SPACE}%" in explorer.text
        seen[rule, str(params)] = kept
    assert len(set(seen.values())) == 3  # two of three signs always agree, so 0.6 keeps what uniform keeps
    assert "2 of 3 signs must agree" in explorer.text
    explorer.controls["rule"].value = ("negmerge", {})


@pytest.mark.slow
def test_the_floor_follows_keep_and_the_button_finds_the_scale(explorer, bench):
    explorer.controls["keep"].value = 0.9
    assert set(line(explorer.figure, "floor")[1]) == {0.9 * bench.base_scores("live").retain.value}
    explorer.buttons["find"].click()
    best = bench.search(bench.choose(), keep=0.9).best
    assert explorer.controls["scale"].value == best.scale and f"{best.scale:g}" in explorer.buttons["find"].description
    explorer.controls["keep"].value = 0.95


def test_several_controls_set_at_once_draw_once(explorer, monkeypatch):
    drawn = []
    monkeypatch.setattr(explorer, "_draw", lambda: drawn.append(1) or explorer.drawn)
    explorer.set(scale=0.4, keep=0.8)
    assert len(drawn) == 1
    explorer.set(scale=0.7, keep=0.95)


def test_the_picker_shows_recipes_and_tells_once(bench):
    picker, told = CandidatePicker(bench.pool), []
    picker.observe(told.append)
    entry = bench.pool.entries[0]
    assert picker.boxes[entry.id].description.startswith(Recipe.from_json(entry.recipe).label)
    picker.buttons["none"].click()
    assert picker.value == () and len(told) == 1
    picker.boxes[entry.id].value = True
    assert picker.value == (entry.id,) and len(told) == 2
    picker.buttons["best 3"].click()
    assert picker.value == tuple(bench.pool.ids) and len(told) == 3


def test_every_rule_and_parameter_has_its_control():
    dials = RuleDials()
    for name, rule in RULES.items():
        dials.menu.value = name
        assert dials.value == (name, rule.resolve({}))
        shown = dials._place.children
        assert [control.description for control in shown] == [parameter.title for parameter in rule.parameters]
        for control, parameter in zip(shown, rule.parameters, strict=True):
            if parameter.high is not None:
                assert control.max == parameter.high and control.min >= parameter.low
            if parameter.low_open:
                assert control.min > parameter.low


@pytest.mark.parametrize(
    ("kind", "default", "control"), [("float", 0.3, "FloatText"), ("int", 3, "IntText")], ids=["float", "int"]
)
def test_a_parameter_without_a_range_is_a_number(kind, default, control):
    found = dial(Parameter("p", "P", "Any number.", default, kind))
    assert type(found).__name__ == control and found.value == default and not found.continuous_update


def test_sliders_do_not_compute_while_they_are_dragged(explorer):
    sliders = [explorer.controls["scale"], explorer.controls["keep"]]
    sliders += [dial for dial in explorer.controls["rule"].dials.values() if hasattr(dial, "continuous_update")]
    assert len(sliders) > 5 and not any(slider.continuous_update for slider in sliders)


@pytest.mark.slow
def test_one_candidate_alone(bench):
    alone = notebook.negation_explorer(bench)
    last = bench.pool.ids[-1]
    alone.set(candidate=last, scale=0.6)
    scores = bench.score(bench.choose([last]), 0.6, "live")
    assert here(alone.figure)["forget"] == (0.6, scores.forget.value)


@pytest.mark.slow
def test_agreement_by_place_and_votes(bench):
    explorer = notebook.agreement_explorer(bench)
    layers = bench.agreement()
    explorer.controls["votes"].value = 2
    bars = [bar.get_height() for bar in explorer.figure.axes[0].patches[:3]]
    whole = total(layers)
    assert bars == [votes / whole.moved for votes in whole.histogram[1:]]
    assert line(explorer.drawn.beneath, "chance")[1] == [chance(3, 2 / 3)] * 2
    wanted = next(layer for layer in layers if layer.name.endswith("mlp.c_fc.weight"))
    place = next(value for text, value in explorer.controls["where"].options if text.endswith(wanted.name))
    explorer.controls["where"].value = place
    bars = [bar.get_height() for bar in explorer.figure.axes[0].patches[:3]]
    assert bars == [votes / wanted.moved for votes in wanted.histogram[1:]]
    assert wanted.name in explorer.text


def test_the_tree_holds_every_tensor_once(bench):
    from negmerge_kit.notebook.agreement import tensor_tree

    layers = [layer for layer in bench.agreement() if layer.moved]
    tree = list(tensor_tree(layers))
    assert sorted(layer.name for branch in tree if branch.depth == 1 for layer in branch.layers) == sorted(
        layer.name for layer in layers
    )
    assert {len(branch.layers) for branch in tree if branch.depth == 3} == {1}


@pytest.mark.slow
def test_the_gallery_shows_what_the_base_gets_right_and_counts_what_is_lost(bench):
    gallery = notebook.before_after_explorer(bench, each=4)
    gallery.controls["scale"].value = 1.5
    test, right = bench.images("test").forget, []
    for choice, scale in ((None, 0.0), (bench.choose(), 1.5)):
        with bench.at(choice, scale) as model:
            (indices,) = ImageQueue([test]).classes(model)
        right.append(indices == test.labels.cpu())
    lost, known = int((right[0] & ~right[1]).sum()), int(right[0].sum())
    assert f"forget {lost:,} of {known:,};" in gallery.figure.get_suptitle().replace("\n", " ")
    for axes in gallery.figure.axes:
        (was,) = (text.get_text() for text in axes.texts if text.get_gid() == "was")
        assert was == f"was {axes.get_title()} ✓"
    wrong = [
        "✗" in text.get_text() for axes in gallery.figure.axes[:4] for text in axes.texts if text.get_gid() == "now"
    ]
    assert wrong == sorted(wrong, reverse=True), "those that are lost come first"
    gallery.controls["scale"].value = 0.0
    assert all("✓" in text.get_text() for axes in gallery.figure.axes for text in axes.texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        notebook.unlearn_explorer,
        notebook.negation_explorer,
        notebook.agreement_explorer,
        notebook.before_after_explorer,
    ],
    ids=lambda make: make.__name__,
)
def test_a_printed_page_gets_the_static_figure(make, bench):
    figure = make(bench, interactive=False)
    assert isinstance(figure, Figure) and notebook.figure_text(figure)


def test_pictures_carry_their_finding_as_text(explorer):
    from negmerge_kit.notebook.show import img

    html = img(explorer.figure)
    assert 'alt="Scale ' in html and html.startswith('<img src="data:image/png;base64,')
    assert explorer._repr_mimebundle_()["text/plain"]
