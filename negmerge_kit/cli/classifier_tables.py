"""A classifier's table in a terminal: what each model knows, what an attacker sees, how far it is from retraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from negmerge_kit.cli.compare_tables import notes
from negmerge_kit.cli.options import seconds
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.comparison.compare import Comparison
    from negmerge_kit.comparison.options import ComparisonOptions
    from negmerge_kit.comparison.row import Row

SHOWN = {"retain": "remaining", "forget": "forgotten", "unseen": "unseen", "mia": "attack", "gap": "gap"}
"""The columns, by metric: those that papers report."""
CHOSEN = {
    "floor": "scales and rates: forget most with {keep:g} of the base's retention on validation",
    "gap": "scales and rates: the smallest gap on validation to a retrained model of another seed than the one that "
    "judges, which only an oracle knows",
}


def standings_table(comparison: Comparison) -> str:
    """Format the comparison, a row a line: shares on test in %, the gap in points, and the row's cost."""
    assert comparison.options is not None
    lines = [
        f"\n{comparison.pool}: {CHOSEN[comparison.options.choose].format(keep=comparison.keep)}{comparison.statistics}"
        f"{_shortened(comparison.options)}",
        f"chosen on {_images(comparison, 'val')}; reported on {_images(comparison, 'test')}{_shared(comparison)}",
        f"{'test, %':34}{'chosen':>9}" + "".join(f"{title:>11}" for title in SHOWN.values()) + f"{'took':>9}",
    ]
    for row in comparison.rows:
        values = row.metrics.values if row.metrics else {}
        cells = "".join(f"{_cell(values.get(name)):>11}" for name in SHOWN)
        shown = cells if values else f"{row.status:>{11 * len(SHOWN)}}"
        lines.append(f"{row.method.title:34}{_chosen(row):>9}{shown}{seconds(row.cost.wall):>9}")
    return "\n".join(
        [
            *lines,
            "attack: share of forgotten images called non-members; all are best near the retrained model's",
            "gap: mean distance to it; chosen: a scale, or the learning rate of a baseline; intervals: --json",
            *format_noise(comparison),
            "took: candidates or tries, and all scoring on validation that chose; test is charged to nobody, and the "
            "retrained models that choose and judge to their own rows only",
            *notes(comparison),
        ]
    )


def _shortened(terms: ComparisonOptions) -> str:
    """Remark for the headline where --epochs shortened the training, so that the gap means less."""
    if terms.epochs is None:
        return ""
    return f"; a quick look: baselines and retrained models have {terms.epochs} epoch{'s' * (terms.epochs > 1)}"


def format_noise(comparison: Comparison) -> list[str]:
    """Line on the gap between two retrained models and the rows within it; empty where there are no two."""
    floor, within = comparison.noise_floor, comparison.within_noise
    if floor is None or within is None:
        return []
    near, count = within
    return [
        f"noise floor: two retrained models are {100 * floor:.2f} points apart; of {count} rows that unlearn, "
        f"{near} {'is' if near == 1 else 'are'} no farther from the one that judges"
    ]


def _images(comparison: Comparison, split: str) -> str:
    assert comparison.images is not None
    return ", ".join(f"{n:,} {name}" for name, n in comparison.images[split].items())


def _shared(comparison: Comparison) -> str:
    shared = (comparison.images or {})["shared"]
    return f"; the {' and '.join(shared)} images that report are the ones that chose" if shared else ""


def standings_spread(spreads: Sequence[Json], over: str) -> str:
    """Format each row's gap over several pools: points and range, or an interval where there are enough pools."""
    lines = [f"\n{over + ': gap, points':34}"]
    for item in spreads:
        spread = item.get("metrics", {}).get("gap")
        lines.append(f"{item['title']:34}{_points(spread) if spread else '-':>34}")
    return "\n".join([*lines, "points in the pools' order (range); an interval stands only on 8 pools or more"])


def _chosen(row: Row) -> str:
    if row.scale is not None:
        return f"{row.scale:.2f}"
    rate = row.params.get("learning_rate", row.params.get("alpha"))
    return f"{rate:g}" if isinstance(rate, float) else "-"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _points(spread: Json) -> str:
    points = " ".join(f"{100 * value:.2f}" for value in spread["points"][:5])
    low, high = spread["interval"] or (spread["low"], spread["high"])
    return f"{points}{' …' if len(spread['points']) > 5 else ''} ({100 * low:.2f}-{100 * high:.2f})"
