"""The Agreement page: votes, map and tensors of the choice on Unlearn; the explanation as a job."""

import re
from functools import partial
from xml.etree import ElementTree

import pytest

from negmerge_kit.app.jobs import Jobs
from negmerge_kit.app.pages import agreement as agreeing
from negmerge_kit.app.pages.agreement import WHOLE, AgreementPage
from negmerge_kit.merging.agreement import total
from negmerge_kit.models.layers import layer_of
from negmerge_kit.plots.style import percent
from negmerge_kit.plots.votes import vote_finding

from .conftest import DIALS

RULE = "negmerge"


@pytest.fixture(scope="module")
def pages(page):
    return AgreementPage(page, Jobs())


def test_the_choice_on_unlearn_is_shown_with_chance_and_tensors(pages, bench):
    notice, _, histogram, heat, table, why = pages.show(WHOLE, bench.pool.ids, RULE, *DIALS)
    layers = bench.agreement()
    all_ = total(layers)
    assert "3 candidates as chosen on Unlearn" in notice and percent(all_.unanimous_of_moved) in notice
    assert vote_finding(all_, votes=3, of=WHOLE) in histogram and f"chance gives {percent(0.25)}" in histogram
    assert f"chance is {percent(0.25)}" in heat and why == ""
    for layer in layers:
        assert f"<code>{layer.name}</code><td>{layer.elements:,}<td>{layer.moved:,}" in table
        assert f"{percent(layer.unanimous_fraction)}<td>{percent(layer.unanimous_of_length)}</tr>" in table
    assert f"hold {percent(all_.unanimous_of_length)} of the plain average" in notice.replace("&#39;", "'")
    assert "<b>block 1</b>" in table and "outside the blocks" in table
    for text in (histogram, heat):
        assert ElementTree.fromstring(re.search(r"<svg.*</svg>", text, re.S)[0]).get("role") == "img"


def test_one_layer_has_its_own_histogram(pages, bench):
    one = [layer for layer in bench.agreement() if layer_of(layer.name) == "b1 q"]
    told = vote_finding(total(one), votes=3, of="b1 q")
    assert told in pages.votes("b1 q", bench.pool.ids, RULE, *DIALS)
    assert told in pages.show("b1 q", bench.pool.ids, RULE, *DIALS)[2]


def test_the_dial_of_unlearn_sets_the_threshold(pages, bench):
    assert "2 or more of 3" in pages.show(WHOLE, bench.pool.ids, RULE, 0.6, *DIALS[1:])[2]


@pytest.mark.parametrize("of", ["b99 q", None, 3, ["b1 q"], {}])
def test_a_layer_that_is_not_there(pages, bench, of):
    assert "no such layer" in pages.votes(of, bench.pool.ids, RULE, *DIALS)
    assert "<svg" in pages.show(of, bench.pool.ids, RULE, *DIALS)[2]


def test_no_candidate_is_one_sentence(pages):
    notice, _, *rest = pages.show(WHOLE, [], RULE, *DIALS)
    assert "tick at least one" in notice and set(rest) == {""}
    assert "ick at least one" in list(pages.explain("me", [], RULE, *DIALS))[-1][0]


@pytest.mark.slow
def test_the_explanation_tells_its_progress_and_is_found_again(pages, bench, monkeypatch):
    monkeypatch.setattr(agreeing, "step_along", partial(agreeing.step_along, shares=(0.5,)))
    monkeypatch.setattr(agreeing, "why_signs", partial(agreeing.why_signs, subsets=2))
    ids = bench.pool.ids[:2]
    told = list(pages.explain("me", ids, RULE, *DIALS))
    progress, html = told[-1]
    assert progress == "" and any("consensus" in text for text, _ in told[:-1])
    assert html.count("<svg") == 2 and "predict" in html
    assert list(pages.explain("other", ids, RULE, *DIALS)) == [("", html)]
    assert pages.show(WHOLE, ids, RULE, *DIALS)[-1] == html
    assert pages.show(WHOLE, bench.pool.ids, RULE, *DIALS)[-1] == ""


def test_a_cancelled_explanation_says_so(pages, bench):
    news = pages.explain("me", bench.pool.ids, RULE, *DIALS)
    next(news)
    pages.jobs.cancel("me")
    assert "Cancelled" in list(news)[-1][0]
