"""Figures of audits and of why signs agree, checked by their data."""

import pytest
from matplotlib.colors import to_hex

from negmerge_kit.analysis.step_along import Change, Direction, Step
from negmerge_kit.analysis.why_signs import Agreement, Why, ZeroRatio
from negmerge_kit.audits.audit import Audit
from negmerge_kit.audits.probe import LEFTOVER, NONE, OPEN, Measurement, Probe
from negmerge_kit.merging.orthants import Estimate
from negmerge_kit.merging.subsets import Halves
from negmerge_kit.plots.probes import audit_figure, relearning_figure, relearning_finding
from negmerge_kit.plots.style import FORGET, RETAIN
from negmerge_kit.plots.why_signs import why_figure, why_finding
from negmerge_kit.scoring.variance import Explained


def reading(value, n=200):
    return Measurement(value, value - 0.05, value + 0.04, n, "test")


def relearning(images, steps):
    looks = {
        "steps": steps,
        "steps_low": steps,
        "steps_high": None,
        "curve": [{"step": 0, "accuracy": 0.3}, {"step": 5, "accuracy": 0.7}],
    }
    return Probe(
        f"relearning from {images} a class",
        "?",
        {"base": reading(0.8), "unlearned": reading(0.7)},
        0.1,
        OPEN,
        details={"images": images, "most_steps": 60, "unlearned": looks},
        good="lower",
    )


AUDIT = Audit(
    0.8,
    (
        Probe(
            "linear probe",
            "?",
            {"base": reading(0.9), "unlearned": reading(0.85), "retrained": reading(0.5), "shuffled": reading(0.3)},
            0.1,
            LEFTOVER,
            floor=("retrained", 0.5),
        ),
        Probe("control arrows", "?", {"base": reading(0.9), "unlearned": reading(0.8)}, 0.125, good="higher"),
        Probe("membership SVC", "?", undefined="not defined: nobody knows."),
        Probe("other prompts", "?", {"base": reading(0.9), "unlearned": reading(0.4)}, 0.1, NONE),
        relearning(10, None),
        relearning(50, 5),
    ),
    3.0,
)


def marks(figure, gid):
    (found,) = [box for box in figure.axes[0].containers if box[0].get_gid() == gid]
    return found[0]


@pytest.mark.slow
def test_every_probe_with_numbers_has_a_row_with_base_and_chance():
    figure = audit_figure(AUDIT)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "linear probe",
        "control arrows ↑",
        "other prompts",
        "relearning from 10 a class ↓",
        "relearning from 50 a class ↓",
    ]
    lines = {line.get_gid(): line for line in axes.get_lines() if line.get_gid()}
    assert list(lines["chance-0"].get_xdata()) == [0.1] and list(lines["chance-1"].get_xdata()) == [0.125]
    assert marks(figure, "unlearned-0").get_xdata()[0] == 0.85 and marks(figure, "shuffled-0").get_xdata()[0] == 0.3
    assert to_hex(marks(figure, "unlearned-0").get_color()) == FORGET
    assert to_hex(marks(figure, "unlearned-1").get_color()) == RETAIN
    words = [text.get_text() for text in axes.texts]
    assert words[0] == "n = 200; 87 % of the way up" and words[1] == words[2] == "n = 200"
    assert figure.get_suptitle().replace("\n", " ") == AUDIT.headline
    assert "Linear probe" in AUDIT.headline and "the retrained model, 50.0 %" in AUDIT.headline


def test_relearning_has_a_panel_for_each_number_of_images():
    figure = relearning_figure(AUDIT)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["10 images", "50 images"]
    lines = {line.get_gid(): line for line in figure.axes[0].get_lines()}
    assert list(lines["unlearned"].get_xdata()) == [0, 5] and lines["base"].get_ydata()[0] == 0.8
    assert relearning_finding(AUDIT.probes[-2:]) == (
        "The base's accuracy on the forget set is back after 5 steps on 50 images"
    )
    assert "not back within 60 steps" in relearning_finding(AUDIT.probes[-2:-1])
    assert relearning_figure(Audit(None, (), 0.0)).get_suptitle() == "Relearning was not asked"


HALVES = (Halves(40, 40, 20, 0, 100, 0.5),)


def why(directions=(), halves=HALVES, fields=None):
    def group(name, share=0.4):
        return Agreement(name, 100, 100, round(100 * share), Estimate(0.35, 1e-4))

    return Why(
        ("a", "b", "c"),
        0.25,
        group("all"),
        (group("w"),),
        (group("b1 q"),),
        (group("q"), group("mlp", 0.5)),
        (group("outside the blocks"), group("block 1")),
        tuple(
            ZeroRatio(n, 0.2 * (n - 1), 0.1 * (n - 1), 0.3 * (n - 1), 1 - 2.0 ** (1 - n), 0.2 * (n - 1))
            for n in (1, 2, 3)
        ),
        halves,
        {"lr": Explained(0.6, 0.3, 0.04, 3, 8), "seed": None} if fields is None else fields,
        directions,
    )


def direction(part):
    change = Change(-0.2, -0.25, -0.15, 240, "val")
    return Direction(part, "…", 2.0, 50, (Step(1.0, 0.5, change, change), Step(2.0, 1.0, change, change)))


def test_why_shows_measured_expected_and_chance():
    figure = why_figure(why((direction("consensus"), direction("conflict"), Direction("mean", "…", 0.0, 0, ()))))
    groups, zeros, steps, diversity = figure.axes
    assert [bar.get_height() for bar in groups.patches] == [0.4, 0.4, 0.4, 0.5]
    lines = {line.get_gid(): line for line in groups.get_lines()}
    assert list(lines["expected"].get_ydata()) == [0.35] * 4 and lines["chance"].get_ydata()[0] == 0.25
    lines = {line.get_gid(): line for line in zeros.get_lines()}
    assert list(lines["zeros"].get_ydata()) == pytest.approx([0, 0.2, 0.4])
    assert list(lines["chance"].get_ydata()) == [0, 0.5, 0.75]
    assert len(steps.containers) == 4 and "n = 240" in steps.get_xlabel() and "95 %" in steps.get_xlabel()
    assert [label.get_text() for label in diversity.get_yticklabels()] == ["two halves'\nconsensus", "lr"]
    assert [bar.get_width() for bar in diversity.patches] == pytest.approx([1 / 3, 0.6])
    assert figure.get_suptitle().startswith("All 3 signs agree on 40.0")


def test_a_pool_of_one_has_nothing_to_compare():
    figure = why_figure(why(halves=(), fields={}))
    assert len(figure.axes) == 3
    assert "nothing to compare" in figure.axes[-1].texts[0].get_text()
    assert "coins 25.0" in why_finding(why())
