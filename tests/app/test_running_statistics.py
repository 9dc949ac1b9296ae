"""A standard classifier's pool in the app: a dial for running statistics, and sentences right for its images."""

import json
import shutil
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from negmerge_kit.app import serve
from negmerge_kit.app.api import Endpoints
from negmerge_kit.app.pages.compare import shown_first
from negmerge_kit.app.pages.rule_dials import params_of, statistics_dial
from negmerge_kit.app.pages.unlearn import AIM, AIM_OF_CLASS, Unlearn
from negmerge_kit.app.pools import Pools
from negmerge_kit.app.templates import notice
from negmerge_kit.errors import ParameterError
from negmerge_kit.pipeline import score_json
from negmerge_kit.plots.style import percent
from negmerge_kit.scenes.forget_set import Forgetting

from .conftest import DIALS, free_port
from .visits import Visit

POLICIES = ("keep", "merge", "recalibrate")
RULES = [*DIALS[:-1]]


@pytest.fixture(scope="module")
def pools(classifier_pool, tmp_path_factory):
    """A pool of the embedded classifier that rows may be kept in."""
    folder = tmp_path_factory.mktemp("app")
    shutil.copytree(classifier_pool, folder / "scans")
    return Pools([folder / "scans"], made=folder / "made", device="cpu")


@pytest.fixture(scope="module")
def opened(pools):
    return pools.open("scans")


def model(opened, scale, buffers, rule="uniform"):
    """The controls' values: candidates, rule, floor, scale, dials."""
    return opened.bench.pool.ids, rule, 0.95, scale, *RULES, buffers


def test_the_dial_stands_where_there_is_something_to_choose(opened, bench):
    dial = statistics_dial(opened.bench.policies, "merge")
    assert opened.bench.policies == POLICIES and dial.visible and dial.value == "merge"
    assert [value for _, value in dial.choices] == list(POLICIES) and "1,024 remaining training images" in dial.info
    assert bench.policies == ("keep",) and not statistics_dial(bench.policies, "keep").visible
    assert params_of("negmerge", DIALS) == params_of("negmerge", [*RULES, "merge"])


@pytest.mark.slow
@pytest.mark.parametrize("buffers", POLICIES)
def test_numbers_and_files_are_of_the_policy(opened, buffers, tmp_path):
    page, bench = opened.unlearn, opened.bench
    scale = 0.1 if buffers == "merge" else 1.3
    choice = bench.choose(rule="uniform", buffers=buffers)
    shown, scores = page.moved(*model(opened, scale, buffers)), bench.score(choice, scale, "live")
    assert percent(scores.forget.value) in shown.cards and percent(scores.retain.value) in shown.cards
    record = json.loads(opened.downloads.record(choice, scale, 0.95).read_text())
    assert record["buffers"] == buffers
    result, best = list(page.find("me", bench.pool.ids, "uniform", 0.95, *RULES, buffers))[-1]
    found = bench.search(choice, keep=0.95).best
    assert best == found.scale and percent(found.forget.value) in result and "the same in both rows" in result


def test_where_a_merged_variance_would_be_negative_the_curve_ends_and_a_sentence_says_why(opened):
    page, bench = opened.unlearn, opened.bench
    choice = bench.choose(rule="uniform", buffers="merge")
    limit = bench.largest_scale(choice)
    beyond = page.moved(*model(opened, 1.5, "merge"))
    assert limit < 1.5 and "a variance cannot be" in beyond.notice and "smaller scale" in beyond.notice
    list(page.fill("me", bench.pool.ids, "uniform", 0.95, *RULES, "merge"))
    known = page.scored.live(choice).keys() | page.scored.whole(choice).keys()
    assert known and max(known) < limit


@pytest.mark.parametrize("buffers", ["reset", "", None, 7, ["keep"], {}, float("nan"), "x" * 9000])
def test_another_policy_is_one_short_sentence(opened, buffers):
    shown = opened.unlearn.chosen("me", *model(opened, 0.5, buffers))
    assert "choose one of keep, merge, recalibrate" in shown.notice and len(shown.notice) < 300
    assert "choose one of keep" in shown_first(opened.compare, 0.95, buffers)


def test_the_words_are_right_for_a_classifiers_images(opened):
    page = opened.unlearn
    shown = page.chosen("me", *model(opened, 0.5, "keep"))
    assert "training images, n = 60" in shown.cards and "training and unseen validation images" in shown.cards
    assert page.forget_title == "random 10 % from seed 0" and "families" not in shown.cards
    assert notice(AIM, "hint") == shown.notice
    of_class = replace(page.bench.scene, forgetting=Forgetting("scans", of_class="3"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.bench, "scene", of_class)
        assert notice(AIM_OF_CLASS, "hint") == Unlearn(page.scored).moved(*model(opened, 0.5, "keep")).notice


def test_audit_and_compare_point_to_what_there_is_instead(opened, bench):
    assert 'role="status"' in opened.audit.show(*model(opened, 0.5, "keep"))[1]
    for told in (
        opened.audit.show(*model(opened, 0.5, "keep"))[1],
        list(opened.audit.run("me", ["linear"], *model(opened, 0.5, "keep")))[-1][0],
        shown_first(opened.compare, 0.81),
    ):
        assert "negmerge compare POOL --baselines all" in told and "nm-hint" in told


@pytest.mark.slow
def test_endpoints_take_the_policy(pools, opened):
    endpoints, bench = Endpoints(pools), opened.bench
    told = endpoints.score("scans", None, "uniform", 1.3, None, "live", "recalibrate")
    ours = score_json(bench, bench.choose(rule="uniform", buffers="recalibrate"), 1.3, "live")
    assert told | {"seconds": 0} == ours | {"seconds": 0}
    found = [endpoints.search("scans", rule="uniform", scales="0:1:0.25", buffers=buffers) for buffers in POLICIES]
    assert len({json.dumps(one["curve"]) for one in found}) == 3
    rows = {}
    for buffers in ("keep", "recalibrate"):
        compared = endpoints.compare("scans", "uniform", "none", 0.95, "0:1:0.5", buffers)
        assert compared["buffers"] == buffers
        rows[buffers] = compared["rows"][0]["curve"]
    assert rows["keep"] != rows["recalibrate"]
    for wrong in ("retrain", "single, salun"):
        with pytest.raises(ParameterError, match="baselines train a network"):
            endpoints.compare("scans", "uniform", wrong)


@pytest.mark.browser
def test_the_dial_on_the_page(browser, classifier_pool, tiny_pool):
    port = free_port()
    blocks = serve([classifier_pool, tiny_pool], device="cpu", port=port, block=False)
    visit = Visit(browser, f"http://127.0.0.1:{port}/?buffers=recalibrate&scale=1.3")
    dial = visit.page.locator("#nm-buffers")
    expect(dial.locator("input[value=recalibrate]")).to_be_checked()
    before = visit.text("#nm-cards")
    dial.locator("input[value=keep]").check()
    visit.page.wait_for_function("!location.search.includes('buffers')")
    expect(visit.page.locator("#nm-cards")).not_to_have_text(before)
    dial.locator("input[value=recalibrate]").check()
    visit.page.wait_for_function("location.search.includes('buffers=recalibrate')")
    visit.page.locator("#nm-pool input").click()
    visit.page.get_by_role("option", name=tiny_pool.name).click()
    expect(dial).to_be_hidden()
    visit.page.wait_for_function("!location.search.includes('buffers')")
    blocks.close(verbose=False)
    assert visit.errors == []
