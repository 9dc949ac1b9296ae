"""Unlearning step by step: pick candidates, a rule and its dials, slide the scale, see forget and retain."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from negmerge_kit.errors import NegmergeError
from negmerge_kit.merging import chance, votes_needed
from negmerge_kit.notebook.dials import RuleDials
from negmerge_kit.notebook.explorer import Drawn, Explorer, slider
from negmerge_kit.notebook.measured import live_curve, live_point
from negmerge_kit.notebook.picker import CandidatePicker
from negmerge_kit.plots.scale_curve import LARGEST_SCALE, reach, scale_curve
from negmerge_kit.plots.style import percent
from negmerge_kit.scoring.accuracy import Accuracy
from negmerge_kit.scoring.scale_search import KEEP, Point, outcome
from negmerge_kit.unlearning.delta_cache import Choice
from negmerge_kit.unlearning.workbench import Workbench

AT_FIRST = 0.7
"""First value of the scale slider."""


def unlearn_explorer(
    bench: Workbench, *, keep: float = KEEP, rule: str = "negmerge", interactive: bool = True
) -> Explorer | Figure:
    """Candidates, rule, dials and scale over the live curve; or its first figure.

    The controls are `candidates` (ids), `rule` ((name, params)), `scale` and `keep`; the button `find` searches the
    scale on the whole validation split and moves the slider there.
    """

    def draw(choice: Choice, scale: float, keep: float) -> Drawn:
        here, base = live_point(bench, choice, scale), live_point(bench, None, 0.0)
        figure = scale_curve(live_curve(bench, choice, reach(scale)), base=base, keep=keep, here=here)
        return Drawn(figure, f"{_scores(here, base)}<br>{kept_line(bench, choice)}")

    if not interactive:
        return draw(bench.choose(rule=rule), AT_FIRST, keep).figure

    controls: dict[str, Any] = {
        "candidates": CandidatePicker(bench.pool),
        "rule": RuleDials(rule),
        "scale": slider("scale λ", AT_FIRST, high=LARGEST_SCALE),
        "keep": slider("keep at least", keep, low=0.5, high=1.0, step=0.01),
    }
    find = widgets.Button(
        description="find the best scale",
        tooltip="search the scale on the whole validation split",
        layout=widgets.Layout(width="14em", margin="4px 0 4px 9.5em"),
    )

    def chosen() -> Choice:
        name, params = controls["rule"].value
        return bench.choose(controls["candidates"].value, name, params)

    def now() -> Drawn:
        return draw(chosen(), controls["scale"].value, controls["keep"].value)

    explorer = Explorer(controls, now, buttons={"find": find})

    def search(_: object) -> None:
        find.disabled, find.description = True, "searching …"
        try:
            found = bench.search(chosen(), keep=controls["keep"].value)
            best = found.best
            if best is not None:
                controls["scale"].max = reach(best.scale)
                controls["scale"].value = best.scale
            nothing = "nothing is forgotten" if best else "no scale keeps enough"
            find.description = f"best scale: {best.scale:g}" if best and best.scale else nothing
            find.tooltip = outcome(found) or find.tooltip
        except NegmergeError:
            explorer.redraw()
            find.description = "find the best scale"
        finally:
            find.disabled = False

    find.on_click(search)
    return explorer


def kept_line(bench: Workbench, choice: Choice) -> str:
    """Line on the share of moved weights that the rule keeps, with chance where the rule votes; HTML."""
    counts, n = bench.merged(choice).counts, len(choice.candidates)
    line = f"keeps <b>{percent(counts.kept_of_moved)}</b> of the {counts.moved:,} weights that moved"
    agreement = dict(choice.params).get("agreement")
    if agreement is None or n == 1:
        return line
    return f"{line} (chance {percent(chance(n, agreement))}): {votes_needed(n, agreement)} of {n} signs must agree"


def _scores(here: Point, base: Point) -> str:
    parts = []
    for side in ("forget", "retain"):
        now, was = getattr(here, side), getattr(base, side)
        parts.append(f"{side} <b>{percent(now.value)}</b> ({_interval(now)}), was {percent(was.value)}")
    n = here.forget.n if here.forget else 0
    return f"{'; '.join(parts)}; live: {n} validation images a side, 95 % intervals"


def _interval(score: Accuracy) -> str:
    low, high = score.interval
    return f"{100 * low:.0f}–{percent(high, 0)}"
