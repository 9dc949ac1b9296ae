"""A comparison as the page's table: the paper's protocol, matched retention, and what each row cost."""

from __future__ import annotations

from html import escape

from negmerge_kit.lab.comparison.comparison import REFERENCE, Comparison
from negmerge_kit.lab.comparison.rows import Row
from negmerge_kit.scoring.accuracy import Accuracy, Pair
from negmerge_kit.views.style import percent

NBSP = "\N{NO-BREAK SPACE}"
LOAD = """element.addEventListener('click', event => {
  const mark = event.target.closest('[data-row], [data-mark]');
  if (!mark) return;
  const of = mark.closest('[data-of]')?.dataset.of;
  const told = /^(?:forget|retain)-(matched|protocol)-(.+)$/.exec(mark.dataset.mark || '');
  if (told) trigger('click', {row: told[2], which: told[1], of});
  else if (mark.dataset.row) trigger('click', {row: mark.dataset.row, which: mark.dataset.which, of});
});"""
"""A click on a button of the table, or on a mark of the figure, names its row."""


def compare_table(comparison: Comparison) -> str:
    """Rows in the order of the comparison, under the base; each scale is a button that loads the row."""
    test, val = comparison.base["test"], comparison.base["val"]
    floor = f"{percent(comparison.keep, 0)} of the base’s retention ({percent(comparison.floor)} on validation)"
    warnings = "".join(f'<p class="nm-fine">{escape(text)}</p>' for text in comparison.warnings)
    rows = "".join(map(_row, comparison.rows))
    base = f'<tr><th scope="row">the base<td>–<td>{_share(test.forget)}<td>{_whole(test)}{"<td>–" * 6}</tr>'
    return (
        f"<h2>Rules at equal retention <small>keep at least {floor}{comparison.statistics}</small></h2>{warnings}"
        '<div class="nm-scroll" tabindex="0" role="region" aria-label="comparison of rules">'
        '<table class="nm-table" id="nm-rules"><thead><tr><th rowspan="2" scope="col">rule'
        '<th colspan="3" scope="colgroup">paper’s protocol, test<th colspan="3" scope="colgroup">where retention '
        'meets the floor, test<th rowspan="2" scope="col">forget at equal<br>retention on test'
        '<th rowspan="2" scope="col">delta kept<th rowspan="2" scope="col">cost</tr>'
        "<tr><th scope=col>scale<th scope=col>forget<th scope=col>retain<th scope=col>scale<th scope=col>forget"
        f"<th scope=col>retain</tr></thead><tbody>{base}{rows}</tbody></table></div>"
        f'<p class="nm-fine">{len(comparison.candidates)} candidates. Lower forget is better. Forget: n ='
        f"{NBSP}{test.forget.n:,}, retain: n ={NBSP}{test.retain.n:,} test images; small: 95{NBSP}% intervals. "
        f"{_notes(comparison)}Scales were chosen on validation (n ={NBSP}{val.forget.n:,} and {val.retain.n:,}). A "
        "scale loads its row into Unlearn. Equal retention on test: read between measured test points where test "
        f"retention is 93 to 97{NBSP}% of the base’s, averaged; it describes, nothing is chosen by it. Cost: seconds "
        "to merge and to search, and the scales looked at.</p>"
    )


def _notes(comparison: Comparison) -> str:
    """What really happened in searches whose scale alone would mislead."""
    told = [f"{row.method.title}: {row.outcome}" for row in comparison.rows if row.outcome and row.status == "ok"]
    return escape("".join(f"{text}. " for text in told))


def _row(row: Row) -> str:
    title, name = escape(row.method.title), escape(row.method.name, quote=True)
    kind = ' class="nm-ours"' if row.method.name == REFERENCE else ' class="nm-control"' if row.method.control else ""
    protocol = f'<td colspan="3">{_why(row)}'
    if row.scale is not None and row.test:
        protocol = _cells(title, name, "protocol", f"{row.scale:.2f}", row.test)
    matched = '<td colspan="3">retention never falls below the floor' if row.status != "empty" else '<td colspan="3">–'
    if row.matched:
        matched = _cells(title, name, "matched", f"{row.matched.crossing.scale:.3f}", row.matched.test)
    spent = f"{row.cost.merge + row.cost.search:.1f}{NBSP}s<small>{row.cost.evaluations} scales</small>"
    kept, equal = percent(row.kept_fraction or 0.0), percent(row.equal.value) if row.equal else "–"
    note = f' title="{escape(row.method.note, quote=True)}"' if row.method.note else ""
    return f'<tr{kind}><th scope="row"{note}>{title}{protocol}{matched}<td>{equal}<td>{kept}<td>{spent}</tr>'


def _cells(title: str, name: str, which: str, scale: str, test: Pair) -> str:
    told = f"load {title} at scale {scale} into Unlearn"
    button = f'<button type="button" data-row="{name}" data-which="{which}" aria-label="{told}">{scale}</button>'
    return f"<td>{button}<td>{_share(test.forget)}<td>{_whole(test)}"


def _share(score: Accuracy) -> str:
    low, high = score.interval
    return f"<b>{percent(score.value)}</b><small>{100 * low:.0f}–{100 * high:.0f}{NBSP}%</small>"


def _whole(pair: Pair) -> str:
    return percent(pair.retain.value)


def _why(row: Row) -> str:
    if row.status == "empty":
        return "nothing is left to subtract"
    return escape(row.outcome or "no scale above 0 keeps enough")
