"""The page's handlers as plain functions: their numbers are the workbench's, their errors are sentences."""

import json
import re
from xml.etree import ElementTree

import pytest

from negmerge_kit.app.downloads import Downloads
from negmerge_kit.app.pages.unlearn import EMPTY, WAITING, Unlearn
from negmerge_kit.app.pages.unlearn_pieces import result
from negmerge_kit.app.score_cache import LIVE_SCALES, Scored
from negmerge_kit.app.templates import notice
from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.pipeline import search_json
from negmerge_kit.plots.style import percent
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scoring import Accuracy, Point, ScaleSearch
from negmerge_kit.unlearning.workbench import Workbench

from .conftest import DIALS

RULE, KEEP = "negmerge", 0.95


@pytest.fixture
def ids(page):
    return page.bench.pool.ids


def test_a_slider_move_shows_the_live_scores_with_interval_and_n(page, ids):
    moved = page.moved(ids, RULE, KEEP, 0.23, *DIALS)  # nobody scores all of validation there
    scores = page.bench.score(page.bench.choose(), 0.23, "live")
    assert percent(scores.forget.value) in moved.cards and percent(scores.retain.value) in moved.cards
    assert "n = 240" in moved.cards and "95 % interval" in moved.cards and "chance 10" in moved.cards
    assert 'data-scale="0.23"' in moved.marker
    assert moved.gallery.count("<figure>") == 12


def test_scale_zero_is_the_base_and_tells_a_newcomer_what_to_press(bench):
    page = Unlearn(Scored(bench))
    moved = page.moved(bench.pool.ids, RULE, KEEP, 0, *DIALS)
    base = bench.base_scores("live")
    assert moved.cards.count(percent(base.forget.value)) >= 2  # now, and was
    assert "Find the best scale" in moved.notice and 'role="status"' in moved.notice


def test_what_was_given_up_for_want_of_memory_is_said_on_the_page(page, ids, monkeypatch):
    assert "memory" not in page.moved(ids, RULE, KEEP, 0.3, *DIALS).notice
    monkeypatch.setattr(Workbench, "given_up", "candidates are read from disk")
    for scale in (0, 0.3):
        assert "For want of memory: candidates are read from disk." in page.moved(ids, RULE, KEEP, scale, *DIALS).notice


def test_another_scale_changes_what_the_model_says(page, ids):
    before, after = (page.moved(ids, RULE, KEEP, scale, *DIALS).gallery for scale in (0, 1.5))
    assert before != after and "✗" in after


@pytest.mark.slow
def test_pictures_are_what_the_base_gets_right_with_the_count_of_what_is_lost(bench, ids):
    page = Unlearn(Scored(bench))
    live, choice = bench.images("live"), bench.choose()
    right = [said == images.labels.cpu() for said, images in zip(bench.look(None, 0.0)[1], live, strict=True)]
    for images, mask, places in zip(live, right, page.gallery.places, strict=False):
        assert len(places) >= 1 and all(mask[place] for place in places), images.name
    for scale in (0.5, 1.0, 1.5):
        html = page.moved(ids, RULE, KEEP, scale, *DIALS).gallery
    still = [said == images.labels.cpu() for said, images in zip(bench.look(choice, 1.5)[1], live, strict=True)]
    lost = int((right[0] & ~still[0]).sum())
    assert lost > 0 and f"{lost} of {int(right[0].sum())} no longer correct" in html
    kept = sum(int((one & ~other).sum()) for one, other in zip(right[1:], still[1:], strict=True))
    assert f"{kept} of {sum(int(one.sum()) for one in right[1:])} no longer correct" in html
    # True names are shown, and pictures are in the order of the smallest scale at which they go wrong.
    forget = html.partition('data-kind="retain"')[0]
    order = [int(place) for place in re.findall(r"nm-pic nm-pic-(\d+)", forget)]
    said = page.scored.known(choice).said
    labels = live.forget.labels[page.gallery.places[0]].tolist()
    flips = [
        min((scale for scale in said if scale and said[scale][0][at] != label), default=9)
        for at, label in enumerate(labels)
    ]
    assert [flips[at] for at in order] == sorted(flips)
    names = re.findall(r'nm-true"><i>is</i> ([^<]+)<', forget)
    assert names == [live.forget.classes[labels[at]] for at in order]


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -0.1, 1e9, "much", None, True])
def test_a_wrong_scale_is_one_sentence(page, ids, scale):
    moved = page.moved(ids, RULE, KEEP, scale, *DIALS)
    assert 'role="alert"' in moved.notice and "scale is" in moved.notice.lower()
    assert moved.marker == ""


@pytest.mark.parametrize(
    ("chosen", "rule", "dials", "says"),
    [
        ([], RULE, DIALS, "No candidate is selected"),
        (["nobody"], RULE, DIALS, "nobody"),
        (None, "best", DIALS, "There is no rule"),
        (None, RULE, DIALS[:-1], "Reload"),
        (None, RULE, [0.2, *DIALS[1:]], "Agreement is 0.2"),
    ],
)
def test_a_wrong_choice_is_one_sentence_and_the_base_is_shown(page, ids, chosen, rule, dials, says):
    shown = page.chosen("s", ids if chosen is None else chosen, rule, KEEP, 0.5, *dials)
    assert says.lower() in shown.notice.lower() and 'role="alert"' in shown.notice
    assert percent(page.bench.base_scores("live").forget.value) in shown.cards
    assert "Traceback" not in shown.notice and shown.result == ""


def test_a_choice_shows_kept_share_chance_and_votes(page, ids):
    shown = page.chosen("s", ids, RULE, KEEP, 0.5, *DIALS)
    counts = page.bench.merged(page.bench.choose()).counts
    assert percent(counts.kept_of_moved) in shown.line and "3 of 3" in shown.line
    assert f"chance {percent(0.25)}" in shown.line
    assert f"{percent(0.25)}" in shown.agreement


def test_the_agreement_dial_changes_the_votes(page, ids):
    assert "2 of 3" in page.chosen("s", ids, RULE, KEEP, 0.5, 0.6, *DIALS[1:]).line


def test_figures_are_sound_svg_with_words_for_screen_readers(page, ids):
    shown = page.chosen("s", ids, RULE, KEEP, 0.5, *DIALS)
    for text in [shown.curve, *re.findall(r"<svg.*?</svg>", shown.agreement, re.S)]:
        root = ElementTree.fromstring(text.replace("&nbsp;", " "))
        assert root.get("role") == "img" and len(root.get("aria-label")) > 20
        assert "var(--nm-ink)" in text or "var(--nm-muted)" in text
        names = re.findall(r' id="([^"]+)"', text)
        assert len(names) == len(set(names))


@pytest.mark.slow
def test_the_curve_fills_in_scale_by_scale(bench):
    page = Unlearn(Scored(bench))
    page.chosen("s", bench.pool.ids, RULE, KEEP, 0.5, *DIALS)
    curves = list(page.fill("s", bench.pool.ids, RULE, KEEP, *DIALS))
    scored = len(LIVE_SCALES)
    assert len(set(curves)) == len(curves) == 1 + scored.bit_length()  # of 1, 2, 4, 8, and all of them
    assert curves[-1] == page.curve(bench.choose(), KEEP) and scored & (scored - 1)
    assert list(page.fill("s", bench.pool.ids, RULE, KEEP, *DIALS)) == []  # nothing is scored twice


@pytest.mark.slow
def test_a_newer_choice_ends_the_filling_of_the_older(bench):
    page = Unlearn(Scored(bench))
    page.chosen("s", bench.pool.ids[:2], RULE, KEEP, 0.5, *DIALS)
    filling = page.fill("s", bench.pool.ids[:2], RULE, KEEP, *DIALS)
    next(filling)
    page.chosen("other", bench.pool.ids, RULE, KEEP, 0.5, *DIALS)
    assert next(filling, None)  # another visitor's choice is no concern of this one
    page.chosen("s", bench.pool.ids, RULE, KEEP, 0.5, *DIALS)
    assert next(filling, None) is None


@pytest.mark.slow
def test_an_older_choice_that_arrives_late_does_not_end_the_filling_of_the_newer(bench):
    page = Unlearn(Scored(bench))
    page.chosen("s", bench.pool.ids[:2], RULE, KEEP, 0.5, *DIALS, number=2)
    filling = page.fill("s", bench.pool.ids[:2], RULE, KEEP, *DIALS)
    page._visitors.asked("s", 2, chooses=True)
    page.chosen("s", bench.pool.ids, RULE, KEEP, 0.5, *DIALS, number=1)
    assert next(filling, None) and next(filling, None)
    page.chosen("s", bench.pool.ids, RULE, KEEP, 0.5, *DIALS, number=3)
    assert next(filling, None) is None


@pytest.mark.slow
def test_find_gives_what_the_search_verb_gives(bench):
    page = Unlearn(Scored(bench))
    answers = list(page.find("s", bench.pool.ids, RULE, KEEP, *DIALS))
    result, scale = answers[-1]
    choice = bench.choose()
    told = search_json(bench, choice, bench.search(choice, keep=KEEP), test=True, started=0.0)
    assert scale == told["scale"]
    for part in (told["forget"], told["retain"], told["test"]["forget"], told["test"]["retain"]):
        assert percent(part["value"]) in result and f"n = {part['n']:,}" in result
    assert all(found is None for _, found in answers[:-1]) and "progressbar" in answers[0][0]
    # The cards then show the whole validation split at this scale, and the curve its n.
    shown = page.chosen("s", bench.pool.ids, RULE, KEEP, scale, *DIALS)
    assert "n = 1,440" in shown.cards and shown.result == result and "n = 1,440" in shown.curve
    assert list(page.find("s", bench.pool.ids, RULE, KEEP, *DIALS)) == [(result, scale)]


def test_find_without_candidates_is_one_sentence(page):
    with pytest.raises(ParameterError, match="no candidate is selected"):
        next(page.find("s", [], RULE, KEEP, *DIALS))


def test_infeasible_says_so_with_the_remedy():
    base = Point(0.0, Accuracy(80, 100, "val"), Accuracy(90, 100, "val"))
    text = result(ScaleSearch(0.99, base, None, ()), None, 0.1)
    assert "No scale keeps 99" in text and "Lower" in text and "candidates" in text and "finer" in text


def test_test_numbers_stand_apart_from_validation():
    base = Point(0.0, Accuracy(80, 100, "val"), Accuracy(90, 100, "val"))
    best = Point(0.5, Accuracy(40, 100, "val"), Accuracy(88, 100, "val"))
    score = Accuracy(30, 90, "test").json()
    text = result(
        ScaleSearch(0.95, base, best, ()),
        {"base": {"forget": score, "retain": score}, "forget": score, "retain": score},
        0.1,
    )
    assert 'class="nm-test"' in text and "held out" in text and "chose the scale" in text


def test_a_notice_sets_commands_as_code_and_nothing_else_as_markup():
    told = notice("say `rm <x>`, <b>not</b> ` alone")
    assert "Say <code>rm &lt;x&gt;</code>, &lt;b&gt;not&lt;/b&gt; ` alone" in told


@pytest.mark.slow
@pytest.mark.parametrize("growing", [True, False])
def test_a_pool_without_candidates_shows_the_base(tmp_path, growing):
    from negmerge_kit.sweeps.pool_setup import start_pool

    pool, _ = start_pool("tiny:digits", tmp_path / "empty")
    page = Unlearn(Scored(Workbench(pool, device="cpu")), growing=growing)
    shown = page.chosen("s", [], RULE, KEEP, 0.0, *DIALS)
    assert shown.notice == (notice(WAITING, "hint") if growing else notice(EMPTY))
    assert percent(page.bench.base_scores("live").forget.value) in shown.cards
    assert "<svg" in shown.curve and shown.gallery.count("<figure>") == 12


@pytest.mark.slow
def test_a_damaged_candidate_is_one_sentence(own_pool):
    pool = open_pool(own_pool)
    page = Unlearn(Scored(Workbench(pool, device="cpu")))
    file = own_pool / pool.entries[0].file
    file.write_bytes(file.read_bytes()[:-100])
    shown = page.chosen("s", pool.ids, RULE, KEEP, 0.5, *DIALS)
    assert file.name in shown.notice and "SHA-256" in shown.notice and 'role="alert"' in shown.notice
    with pytest.raises(PoolError, match="SHA-256"):
        list(page.find("s", pool.ids, RULE, KEEP, *DIALS))


@pytest.mark.slow
def test_what_one_takes_away_is_the_model_on_the_page(page, ids, tmp_path):
    from negmerge_kit.checkpoints.reader import open_checkpoint
    from negmerge_kit.checkpoints.writer import sha256_file

    choice = page.choice(ids, RULE, DIALS)
    takeaway = Downloads(page.scored, tmp_path)
    weights, record = takeaway.weights(choice, 0.4, 0.95), takeaway.record(choice, 0.4, 0.95)
    written = open_checkpoint(weights)
    for name, tensor in page.bench.unlearned(choice, 0.4):
        assert tensor.equal(written[name])
    told = json.loads(record.read_text())
    assert told["file"]["sha256"] == sha256_file(weights)
    assert told["scale"] == 0.4 and "by hand" in told["chosen"]
    assert [entry["id"] for entry in told["candidates"]] == ids
    assert told["scores"]["test"]["forget"]["split"] == "test" and told["limits"].endswith(".")
    for name in ("rule", "params", "scene", "base", "versions", "device"):
        assert told[name]


@pytest.mark.slow
def test_the_record_says_search_only_for_the_scale_that_this_floor_found(page, ids, tmp_path):
    choice = page.choice(ids, RULE, DIALS)
    takeaway = Downloads(page.scored, tmp_path)
    for _ in page.find("visitor", ids, RULE, 0.9, *DIALS):
        pass
    scale = page.scored.known(choice).searches[0.9].best.scale
    told = [json.loads(takeaway.record(choice, scale, keep).read_text()) for keep in (0.9, 0.93)]
    assert told[0]["chosen"].startswith("search over") and told[0]["keep"] == 0.9
    assert told[1]["chosen"].startswith("by hand") and told[1]["keep"] is None


@pytest.mark.parametrize("keep", [None, float("nan"), 0.0, 1.5, "high"])
def test_a_floor_that_means_nothing_is_said_on_the_page(page, ids, keep):
    from negmerge_kit.errors import ParameterError

    assert "eep at least" in page.moved(ids, RULE, keep, 0.3, *DIALS).notice
    assert "eep at least" in page.chosen("visitor", ids, RULE, keep, 0.3, *DIALS).notice
    with pytest.raises(ParameterError, match="keep"):
        next(page.find("visitor", ids, RULE, keep, *DIALS))


@pytest.mark.slow
def test_only_the_newest_downloads_are_kept(page, ids, tmp_path, monkeypatch):
    takeaway = Downloads(page.scored, tmp_path)
    told = takeaway._card(page.choice(ids, RULE, DIALS), 0.1, None)
    monkeypatch.setattr(Downloads, "_card", lambda self, choice, scale, found, audit=None: told)
    for scale in range(1, 12):
        takeaway.weights(page.choice(ids, RULE, DIALS), scale / 10, 0.95)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_search_is_kept_though_others_looked_at_more_choices_than_are_remembered(bench, monkeypatch):
    scored, choice = Scored(bench), bench.choose()
    base = Point(0.0, Accuracy(80, 100, "val"), Accuracy(90, 100, "val"))
    best = Point(0.5, Accuracy(40, 100, "val"), Accuracy(88, 100, "val"))

    def search(choice, *, keep, on_point):
        on_point(best)
        return ScaleSearch(keep, base, best, (best,))

    def crowd(*model):
        for other in range(100):
            scored.known(other)
        return {"forget": 1}

    monkeypatch.setattr(bench, "search", search)
    monkeypatch.setattr("negmerge_kit.app.score_cache.on_test", crowd)
    assert list(scored.search(choice, KEEP)) == [best]
    assert scored.known(choice).searches[KEEP].best == best and scored.test(choice, KEEP) == {"forget": 1}
