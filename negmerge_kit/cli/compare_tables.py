"""A comparison as text tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from negmerge_kit.cli.options import seconds
from negmerge_kit.comparison.matched_retention import FLOORS
from negmerge_kit.types import Json

if TYPE_CHECKING:
    from negmerge_kit.comparison.compare import Comparison
    from negmerge_kit.scoring.accuracy import Pair
    from negmerge_kit.scoring.paired_bootstrap import Resampled


EQUAL = (
    f"equal retention on test: read between measured test points where test retention is {100 * FLOORS[0]:g} to "
    f"{100 * FLOORS[-1]:g} % of the base's, averaged; it describes, nothing is chosen by it"
)


def rules_table(comparison: Comparison) -> str:
    """Protocol and matched retention, a rule a line, with the base above."""
    test, val = comparison.base["test"], comparison.base["val"]
    lines = [
        f"\n{comparison.pool}: keep {100 * comparison.keep:g} % of the base's retention "
        f"(floor {100 * comparison.floor:.2f} % on validation, n = {val.retain.n}){comparison.statistics}",
        f"{'':34}{'paper’s protocol, test':^40}  {'where retention meets the floor, test':^37}{'':8}"
        f"{'equal retention':>17}",
        f"{'rule':34}{'scale':>6}{'forget (95 % interval)':>24}{'retain':>9}   {'scale':>7}{'forget (interval)':>20}"
        f"{'retain':>9}{'kept':>8}{'on test: forget':>17}",
        f"{'base':34}{'-':>6}{_share(test):>24}{_percent(test.retain.value):>9}",
    ]
    for row in comparison.rows:
        protocol = f"{row.status:>39}"
        if row.scale is not None and row.test:
            protocol = f"{row.scale:>6.2f}{_share(row.test):>24}{_percent(row.test.retain.value):>9}"
        matched = f"{'never below' if row.status != 'empty' else '-':>36}"
        if row.matched:
            pair = row.matched.test
            matched = f"{row.matched.crossing.scale:>7.3f}{_share(pair):>20}{_percent(pair.retain.value):>9}"
        lines.append(
            f"{row.method.title:34}{protocol}   {matched}{_percent(row.kept_fraction or 0.0):>8}"
            f"{_percent(row.equal.value) if row.equal else '-':>17}"
        )
    lines.append(f"forget: n = {test.forget.n}, retain: n = {test.retain.n}; lower forget is better")
    lines.append(EQUAL)
    lines.append(_searched(comparison))
    outcomes = [f"{row.method.title}: {row.outcome}" for row in comparison.rows if row.outcome]
    return "\n".join([*lines, *outcomes, *notes(comparison)])


def notes(comparison: Comparison) -> list[str]:
    """A line for each row that is to be read with care, with what was chosen for it where that was searched."""
    lines = []
    for row in comparison.rows:
        if row.method.note:
            tried = row.method.settings
            chosen = [f"{name} {row.params[name]:g}" for name in tried[0] if len({s[name] for s in tried}) > 1]
            lines.append(f"{', '.join([row.method.title, *chosen])}: {row.method.note}")
    return lines


def _searched(comparison: Comparison) -> str:
    scales = comparison.scales
    grid = f"{len(scales)} scales from {scales[0]:g} to {scales[-1]:g}"
    far = max((row.reach[1] for row in comparison.rows if row.reach), default=scales[-1])
    on = f", and on to {far:g} where retention had not met its floor" if far > scales[-1] else ""
    return f"searched: {grid}{on}"


def costs_table(comparison: Comparison) -> str:
    """Cost of each rule: seconds to train the candidates, merge and search; memory; scales looked at."""
    lines = [
        f"\n{'cost':34}{'train':>9}{'merge':>9}{'search':>9}{'wall':>9}{'scales':>8}{'images':>9}{'peak':>9}  device"
    ]
    for row in comparison.rows:
        cost = row.cost
        peak = f"{cost.peak_memory / 2**20:.0f} MB" if cost.peak_memory is not None else "-"
        spent = "".join(f"{seconds(value):>9}" for value in (cost.train, cost.merge, cost.search, cost.wall))
        lines.append(f"{row.method.title:34}{spent}{cost.evaluations:>8}{cost.images:>9}{peak:>9}  {cost.device}")
    return "\n".join([*lines, "scales: looked at on validation, in full or in part; the pool is trained once for all"])


def differences_table(comparison: Comparison, resampled: dict[str, Resampled], reference: str) -> str:
    """Each rule minus the reference on the same resampled images, in points of test accuracy."""
    lines = [f"\n{'minus ' + reference + ', points of forget, test':40}{'protocol':>26}{'matched retention':>26}"]
    for row in comparison.rows:
        if row.method.name in resampled and row.method.name != reference:
            effects = resampled[row.method.name].differences
            cells = "".join(
                f"{f'{100 * e.value:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})':>26}"
                for e in (effects["protocol forget"], effects["matched forget"])
            )
            lines.append(f"{row.method.title:40}{cells}")
    return "\n".join([*lines, "paired bootstrap, 95 %: every replicate chose its scales again on its own validation"])


def spread_table(spreads: Sequence[Json], over: str) -> str:
    """Points and range of each rule, and an interval where there are enough pools for one."""
    lines = [f"\n{over + ': forget, test':34}{'paper’s protocol':>34}{'matched retention':>34}{'equal on test':>34}"]
    for item in spreads:
        cells = "".join(f"{_points(item[which]['forget']):>34}" for which in ("protocol", "matched"))
        cells += f"{_points(item['at_test_retention']):>34}"
        lines.append(f"{item['title']:34}{cells}")
    return "\n".join([*lines, "points in the pools' order (range); an interval stands only on 8 pools or more"])


def _share(pair: Pair) -> str:
    low, high = pair.forget.interval
    return f"{_percent(pair.forget.value)} ({100 * low:.1f}-{100 * high:.1f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(spread: Json | None) -> str:
    if spread is None:
        return "-"
    points = " ".join(f"{100 * value:.1f}" for value in spread["points"][:5])
    more = " …" if len(spread["points"]) > 5 else ""
    low, high = spread["interval"] or (spread["low"], spread["high"])
    return f"{points}{more} ({100 * low:.1f}-{100 * high:.1f})"
