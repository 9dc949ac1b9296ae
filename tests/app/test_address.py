"""What an address asks for: restored where it can be, left out and told of where it cannot; nothing raises."""

import random

import pytest

from negmerge_kit.app.pages.rule_dials import DIALS
from negmerge_kit.app.url_state import Address, restored
from negmerge_kit.merging.rules import RULES
from negmerge_kit.scoring.scale_search import KEEP

POOLS = {"a": ["1", "2", "3"], "b": ["4"]}


BUFFERS = {"a": ["keep"], "b": ["keep", "merge"]}


def asked(query):
    return restored(query, list(POOLS), POOLS.__getitem__, 1.5, buffers_of=BUFFERS.__getitem__)


def test_a_whole_state_comes_back():
    found = asked("?pool=b&candidates=4&rule=ties&density=0.35&scale=0.65&keep=0.9&buffers=merge&tab=agreement&x=y")
    assert found == Address("b", ["4"], "ties", {"density": 0.35}, 0.65, 0.9, "merge", "agreement")
    dials = dict(zip(DIALS, found.dials(), strict=True))
    assert dials["ties", "density"] == 0.35 and dials["negmerge", "agreement"] == 1.0


@pytest.mark.parametrize("query", ["", "?", "?__theme=light", None, 7, ["scale=1"], "?scale", "x" * 300_000])
def test_nothing_asked_for_is_what_a_newcomer_finds(query):
    assert asked(query) == Address("a", None, "negmerge", {}, 0.0, KEEP, "keep", "unlearn", [])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("pool=../etc", "pool '../etc'"),
        ("rule=<script>", "rule '<script>'"),
        ("agreement=7", "agreement '7'"),
        ("rule=ties&density=nan", "density 'nan'"),
        ("scale=inf", "scale 'inf'"),
        ("scale=1.6", "scale '1.6'"),
        ("keep=0.5", "keep '0.5'"),
        ("tab=admin", "tab 'admin'"),
        ("buffers=merge", "buffers 'merge'"),  # of a model without running statistics
        ("candidates=1,9", "1 candidate that"),
        ("candidates=8,9", "2 candidates that"),
    ],
)
def test_what_cannot_be_is_left_out_and_told_of(query, says):
    found = asked(query)
    assert len(found.problems) == 1 and says in found.problems[0]
    assert found.pool == "a" and found.scale == 0 and found.keep == KEEP and found.tab == "unlearn"
    assert found.buffers == "keep"


def test_no_ticked_candidate_comes_back_as_none_ticked():
    found = asked("?candidates=&rule=ties")  # as the page writes it
    assert found.candidates == [] and found.rule == "ties" and found.problems == []


def test_a_thousand_random_addresses_restore_something_valid():
    lot = random.Random(3)
    names = ["pool", "candidates", "rule", "scale", "keep", "buffers", "tab", *(name for _, name in DIALS)]
    values = ["a", "1,2", "ties", "0.5", "1e999", "-1", "nan", "%00", "\ud800", "%ff", "../x", "0x10", "9" * 5000]
    values.append("merge")
    for _ in range(1000):
        found = asked("&".join(f"{lot.choice(names)}={lot.choice(values)}" for _ in range(lot.randint(1, 6))))
        assert found.pool in POOLS and 0 <= found.scale <= 1.5 and 0.8 <= found.keep <= 1
        assert found.buffers in BUFFERS[found.pool]
        assert RULES[found.rule].resolve(found.params).items() >= found.params.items()
        assert found.candidates is None or set(found.candidates) <= set(POOLS[found.pool])
        assert all(len(problem) < 100 for problem in found.problems)
