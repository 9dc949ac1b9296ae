"""Agreement by layer under the curve of the main page: bars of a choice's candidates, drawn once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from negmerge_kit.lab.delta_cache import Choice
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.merging.agreement import LayerAgreement
from negmerge_kit.merging.signs import chance, votes_needed
from negmerge_kit.views import plots, svg

NOTHING = '<p class="nm-fine">With candidates chosen, this shows on which weights their signs agree.</p>'
REMEMBERED = 64


class AgreementBars:
    """The bars over one workbench, by candidates and threshold; the oldest are forgotten first."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._drawn: OrderedDict[tuple[object, float], str] = OrderedDict()
        self._turn = threading.Lock()

    def html(self, choice: Choice) -> str:
        """Finding and figure, wide and tall; a rule that does not vote is held against unanimity."""
        agreement = float(dict(choice.params).get("agreement", 1.0))
        key = (choice.voters, agreement)
        with self._turn:
            found = self._drawn.get(key)
        if found is None:
            found = _drawn(self._bench.agreement(choice.candidates), len(choice.candidates), agreement)
            with self._turn:
                self._drawn[key] = found
                if len(self._drawn) > REMEMBERED:
                    self._drawn.popitem(last=False)
        return found


def _drawn(layers: Sequence[LayerAgreement], n: int, agreement: float) -> str:
    votes, line = votes_needed(n, agreement), chance(n, agreement)
    finding = plots.agreement_finding(layers, votes=votes, chance=line)
    bars = plots.agreement_by_layer(layers, votes=votes, chance=line, titled=False)
    rows = plots.agreement_by_layer(layers, votes=votes, chance=line, titled=False, upright=False)
    wide, tall = svg.inline(bars, finding, name="bars"), svg.inline(rows, finding, name="rows")
    return f'<p class="nm-fine">{finding}.</p><div class="nm-wide">{wide}</div><div class="nm-tall">{tall}</div>'
