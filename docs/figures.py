"""Every figure of the kit with the call that makes it: writes docs/figures.md and docs/figures/*.png.

    python docs/figures.py [--page]

It uses the embedded pools in the user's cache, and makes them first where they are missing. `--page` writes the page
only and draws nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PAGE = HERE / "figures.md"
PICTURES = HERE / "figures"
DPI = 110

START = """\
from negmerge_kit import Workbench
from negmerge_kit.sweeps.ready import ready_pool

bench = Workbench(ready_pool("tiny:digits"))
choice = bench.choose(rule="negmerge")
n = len(choice.candidates)
"""


class Entry(NamedTuple):
    """A figure's file name, what it answers, and its call; the last expression is the figure."""

    name: str
    asks: str
    call: str


ENTRIES = (
    Entry(
        "scale-curve",
        "What does each scale forget, and what does it cost?",
        """\
from negmerge_kit.plots.scale_curve import scale_curve

found = bench.search(choice, keep=0.95, method="exhaustive")
points = [point for point in found.curve if point.scale]
scale_curve(points, base=found.base, keep=0.95, best=found.best)
""",
    ),
    Entry(
        "scale-curve-here",
        "The same under a slider: the marker carries its intervals.",
        """\
scale_curve(points, base=found.base, keep=0.95, here=points[9])
""",
    ),
    Entry(
        "before-after",
        "What does the model say now?",
        """\
from negmerge_kit.plots.before_after import answered, before_after

before_after(*answered(bench, choice, found.best.scale))
""",
    ),
    Entry(
        "candidate-spread",
        "How far do the candidates lie apart, and what do merges make of it?",
        """\
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.plots.candidates import candidate_spread

recipes = {entry.id: Recipe.from_json(entry.recipe) for entry in bench.pool.entries}
own = {entry.id: entry.scores["scale"] for entry in bench.pool.entries if entry.scores["status"] == "ok"}
alone = {id: bench.score(bench.choose([id]), scale, "test") for id, scale in own.items()}
merged = {}
for rule in ("uniform", "negmerge"):
    best = bench.search(bench.choose(rule=rule), keep=0.95).best
    merged[rule] = bench.score(bench.choose(rule=rule), best.scale, "test")
base = bench.base_scores("test")
candidate_spread({recipes[id].label: scores for id, scores in alone.items()}, base=base, merged=merged)
""",
    ),
    Entry(
        "sensitivity",
        "Figure 1 of the paper, living: the same pool in the plane (more pools, more panels).",
        """\
from negmerge_kit.plots.sensitivity import Negated, Spread, sensitivity

family = Spread(base, tuple(Negated(recipes[id], scores) for id, scores in alone.items()), merged)
sensitivity({"digits": family}, keep=0.95)
""",
    ),
    Entry(
        "sensitivity-by-setting",
        "Does one hyperparameter explain it?",
        """\
from negmerge_kit.plots.sensitivity import sensitivity_by_setting

sensitivity_by_setting({"digits": family}, ["lr", "epochs"])
""",
    ),
    Entry(
        "pool-health",
        "Does every candidate belong with the others?",
        """\
from negmerge_kit.analysis.inner_products import health_of, inner_products
from negmerge_kit.plots.pool_health import pool_health

health = health_of(bench.pool, inner_products(bench.pool))
pool_health([recipes[id].label for id in health], list(health.values()))
""",
    ),
    Entry(
        "votes",
        "How do the signs vote, and how would coins?",
        """\
from negmerge_kit.merging import chance, total
from negmerge_kit.plots.votes import vote_histogram

layers = bench.agreement()
vote_histogram(total(layers), votes=n)
""",
    ),
    Entry(
        "shares",
        "A share of what?",
        """\
from negmerge_kit.plots.votes import shares_of_what

whole = sum(tensor.numel() for tensor in bench.pool.base.values() if tensor.is_floating_point())
shares_of_what([layer for layer in layers if layer.moved], whole=whole)
""",
    ),
    Entry(
        "agreement-by-layer",
        "Where do the candidates agree?",
        """\
from negmerge_kit.plots.scale_curve import agreement_by_layer

agreement_by_layer(layers, votes=n, chance=chance(n))
""",
    ),
    Entry(
        "agreement-map",
        "The same by block and kind.",
        """\
from negmerge_kit.plots.agreement_map import agreement_map

agreement_map(layers, votes=n, chance=chance(n))
""",
    ),
    Entry(
        "zeros-by-count",
        "How fast does the consensus shrink as candidates join?",
        """\
from negmerge_kit.analysis.decay import known_shift
from negmerge_kit.analysis.step_along import step_along
from negmerge_kit.analysis.why_signs import why_signs
from negmerge_kit.plots.votes import consensus_by_count

pool = bench.pool
settings, shifts = [entry.recipe for entry in pool.entries], [known_shift(entry) for entry in pool.entries]
steps = step_along(bench)
why = why_signs(pool.base, pool.candidates, names=pool.ids, recipes=settings, shifts=shifts, directions=steps)
consensus_by_count(why.zero_ratio)
""",
    ),
    Entry(
        "why-signs",
        "Why signs? Agreement and what cosines predict, and steps of equal length.",
        """\
from negmerge_kit.plots.why_signs import why_figure

why_figure(why)
""",
    ),
    Entry(
        "panels",
        "Validation and test.",
        """\
from negmerge_kit.scoring.scale_search import Point
from negmerge_kit.plots.curve_panels import Curve, curve_panels

scored = {scale: bench.score(choice, scale, "test") for scale in (0.2, 0.4, 0.6, 0.7, found.best.scale, 1.0)}
test = {scale: Point(scale, scores.forget, scores.retain) for scale, scores in scored.items()}
curves = {
    "validation": Curve(found.base, points, found.best),
    "test": Curve(Point(0.0, base.forget, base.retain), list(test.values()), test[found.best.scale]),
}
curve_panels(curves, keep=0.95, finding="The scale is chosen on validation and scored once on test")
""",
    ),
    Entry(
        "grids",
        "What does the grid decide?",
        """\
from negmerge_kit.plots.grid_ranking import grid_ranking

grids = {"0 … 1\\nstep 0.25": 4, "0 … 1\\nstep 0.05": 20}
chosen = {
    name: {
        rule: bench.search(bench.choose(rule=rule), scales=[step / parts for step in range(parts + 1)]).best
        for rule in ("negmerge", "uniform", "random-mask")
    }
    for name, parts in grids.items()
}
grid_ranking(
    chosen, finding="A coarse step and a fine one rank the rules differently; the cap holds the random mask back"
)
""",
    ),
    Entry(
        "frontier",
        "Who forgets more at equal retention?",
        """\
from negmerge_kit.comparison.compare import compare_rules
from negmerge_kit.plots.frontier import rule_frontier

rules = ["negmerge", "uniform", "median", "ties", "random-mask"]
rule_frontier([compare_rules(bench, rules, keep=0.95)])
""",
    ),
    Entry(
        "audit",
        "Is it gone?",
        """\
from negmerge_kit.audits.audit import audit
from negmerge_kit.plots.probes import audit_figure

answers = audit(bench, choice, found.best.scale, steps=40)
audit_figure(answers)
""",
    ),
    Entry(
        "relearning",
        "How fast does it come back?",
        """\
from negmerge_kit.plots.probes import relearning_figure

relearning_figure(answers)
""",
    ),
    Entry(
        "loss-curves",
        "How did the candidates train?",
        """\
from negmerge_kit.plots.loss_curves import LossCurve, loss_curves

loss_curves([LossCurve(recipes[entry.id].label, entry.losses, len(entry.losses)) for entry in pool.entries])
""",
    ),
    Entry(
        "standings",
        "Which rule or baseline comes nearest to a retrained classifier?",
        """\
from negmerge_kit.comparison.options import ComparisonOptions
from negmerge_kit.plots.classifier_comparison import standings_figure

networks = Workbench(ready_pool("tiny-classifier"))
rows = ["retrain", "gradient-ascent", "salun", "uniform", "negmerge", "conflict"]
standings_figure([compare_rules(networks, rows, options=ComparisonOptions("gap", shadows=0, seed=0))])
""",
    ),
)


def page() -> str:
    """The page's Markdown."""
    parts = [
        "# Figures",
        "Each is a pure function from results to a `matplotlib.figure.Figure`; app, notebooks and command line draw "
        "the very same ones. Orange is what should be forgotten, blue what should be kept, violet agreement. Titles "
        "say what was found; intervals are Wilson's at 95 % unless a figure says otherwise. The pictures are of one "
        "pool of the embedded scene, the last of one of the embedded classifier. `python docs/figures.py` writes this "
        "page.",
        "`negmerge_kit.plots.save.save_figure(figure, path)` writes PNG, SVG or PDF; in a notebook "
        "`negmerge_kit.notebook.show(figure)` displays one.",
        f"All calls run after this start, in the order of the page:\n\n```python\n{START}```",
    ]
    for entry in ENTRIES:
        picture = f"![{entry.asks}](figures/{entry.name}.png)"
        parts.append(f"## {entry.asks}\n\n```python\n{entry.call}```\n\n{picture}")
    return "\n\n".join(parts) + "\n"


def evaluated(code: str, names: dict[str, Any]) -> Any:
    """Run a call and give its last expression's value."""
    import ast

    tree = ast.parse(code)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, "figures.md", "exec"), names)
    return eval(compile(ast.Expression(last.value), "figures.md", "eval"), names)


def draw() -> None:
    """Run every call and write its picture."""
    names: dict[str, Any] = {}
    exec(START, names)
    PICTURES.mkdir(exist_ok=True)
    for entry in ENTRIES:
        figure = evaluated(entry.call, names)
        figure.savefig(PICTURES / f"{entry.name}.png", dpi=DPI, facecolor="white", metadata={"Software": None})
        print(entry.name, flush=True)


def main() -> None:
    """Write the page and, unless told otherwise, its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page only")
    options = parser.parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    if not options.page:
        draw()


if __name__ == "__main__":
    main()
