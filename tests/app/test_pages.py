"""The other pages in Chromium: rows load, votes and audit follow, pools change, everybody can read and reach them."""

import re
import threading
import time
import zipfile
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import expect

from negmerge_kit.app.pages.unlearn import Unlearn
from negmerge_kit.plots.style import percent

from .conftest import free_port
from .visits import SLOW, Visit, inaccessible, tab

pytestmark = pytest.mark.browser

SHOWN = {
    "Compare": "#nm-rules",
    "Agreement": "#nm-map svg",
    "Fine-tune": "#nm-pages [role=tabpanel]:visible button",
    "Audit": "#nm-probes",
    "Unlearn": "#nm-find",
}
"""Each page, and what stands on it once it is there."""


@pytest.fixture(scope="module")
def pages(compared, tiny_pool):
    """A served app on two pools; the first one's comparison is finished."""
    from negmerge_kit.app import serve

    port = free_port()
    blocks = serve([compared[2], tiny_pool], device="cpu", port=port, block=False)
    yield f"http://127.0.0.1:{port}/"
    blocks.close(verbose=False)


@pytest.fixture
def visit(browser, pages):
    visit = Visit(browser, pages, viewport={"width": 1340, "height": 900})
    yield visit
    visit.page.close()
    assert visit.errors == [] and visit.outside == []


def test_a_clicked_row_of_a_kept_comparison_stands_on_unlearn(visit, compared):
    comparison = compared[0].known(0.95)
    tab(visit, "Compare")
    buttons = visit.page.locator("#nm-rules button")
    expect(buttons).to_have_count(4)  # found in the pool: nobody pressed anything
    uniform = comparison.rows[0]
    visit.page.get_by_role("button", name=f"load {uniform.method.title} at scale {uniform.scale:.2f}").click()
    visit.at(f"{uniform.scale:g}")
    expect(visit.page.locator("#nm-rule input")).to_have_value("Uniform average")
    tab(visit, "Compare")
    ours = comparison.rows[1].matched
    mark = visit.page.locator("[data-mark='forget-matched-negmerge']").first
    mark.scroll_into_view_if_needed()
    mark.click(force=True)
    visit.at(f"{ours.crossing.scale:g}")


def test_agreement_and_audit_follow_the_choice_on_unlearn(visit, tmp_path):
    visit.page.locator("#nm-picker label").nth(0).click()
    expect(visit.page.locator("#nm-kept")).to_contain_text("2 of 2")
    tab(visit, "Agreement")
    expect(visit.page.locator("#nm-agreed")).to_contain_text("2 candidates as chosen on Unlearn")
    expect(visit.page.locator("#nm-votes svg")).to_have_attribute("aria-label", re.compile(re.escape(percent(0.5))))
    visit.page.locator("#nm-tree summary").first.click()
    expect(visit.page.locator("#nm-tree code").first).to_be_visible()
    tab(visit, "Audit")
    expect(visit.page.locator("#nm-audit-progress")).to_contain_text("scale 0 is the base")
    tab(visit, "Unlearn")
    visit.set_scale("0.5")
    visit.at("0.5")
    tab(visit, "Audit")
    expect(visit.page.locator("#nm-under-audit")).to_contain_text("2 candidates, scale 0.5")
    for name in ("linear", "neighbours", "prompts", "wrong-class", "membership", "controls", "relearning"):
        visit.page.get_by_label(name, exact=True).uncheck()
    visit.page.locator("#nm-audit").click()
    expect(visit.page.locator("#nm-audited")).to_contain_text("zero-shot", timeout=60_000)
    expect(visit.page.locator("#nm-audit")).to_be_enabled()
    assert inaccessible(visit, 1340, 390) == []
    with visit.page.expect_download() as download:
        whole = visit.page.get_by_role("button", name="unlearned.zip")
        whole.click()
    expect(whole).to_be_enabled()  # it says “Writing…” meanwhile
    with zipfile.ZipFile(download.value.path()) as archive:
        assert "audit.json" in archive.namelist()


def test_an_address_restores_the_state_and_follows_it(browser, pages, tiny_pool, bench, monkeypatch):
    one, moved = bench.pool.ids[0], Unlearn.moved

    def late(page, *values):
        """What the page asked of the first pool, before all of the address had come in, is answered last."""
        if page.bench.pool.folder != tiny_pool:
            time.sleep(1)
        return moved(page, *values)

    monkeypatch.setattr(Unlearn, "moved", late)
    asked = f"pool={tiny_pool.name}&candidates={one}&rule=ties&density=0.3&scale=0.6&keep=0.9&tab=agreement"
    visit = Visit(browser, f"{pages}?{asked}&colour=blue", viewport={"width": 1340, "height": 900})
    expect(visit.page.locator("#nm-agreed")).to_contain_text("1 candidate as chosen")
    assert all("tab=agreement" in address for address in visit.addresses)  # wherever on the way somebody reloads
    tab(visit, "Unlearn")
    expect(visit.page.get_by_role("group", name="Candidates: learning rate")).to_be_visible()
    visit.page.wait_for_timeout(2000)
    visit.at("0.6")
    choice = bench.choose([one], "ties", {"density": 0.3})
    assert visit.number("#nm-forget-now") == round(100 * bench.score(choice, 0.6, "live").forget.value, 1)
    expect(visit.page.locator("#nm-pool input")).to_have_value(tiny_pool.name)
    told = dict(parse_qsl(urlsplit(visit.page.url).query))
    assert told | {"tab": "agreement"} == dict(parse_qsl(asked)) | {"colour": "blue"} and "tab" not in told
    visit.set_scale("0.8")
    visit.at("0.8")
    visit.page.wait_for_url(re.compile("scale=0.8"))
    again = Visit(browser, visit.page.url)
    again.at("0.8")
    again.page.close()
    visit.page.close()
    assert visit.errors == [] and visit.outside == []


def test_a_link_that_cannot_be_says_what_was_left_out(browser, pages):
    visit = Visit(browser, f"{pages}?pool=../etc&scale=99")
    expect(visit.page.locator("#nm-message")).to_contain_text("pool '../etc'; scale '99'")
    expect(visit.page.locator("#nm-notice")).to_contain_text("Find the best scale")
    visit.page.close()
    assert visit.errors == []


def test_another_pool_comes_onto_the_page(visit, compared, tiny_pool):
    visit.set_scale("0.5")
    visit.at("0.5")
    tab(visit, "Compare")
    visit.page.locator("#nm-pool input").click()
    visit.page.get_by_role("option", name=tiny_pool.name).click()
    visit.page.wait_for_url(re.compile(f"pool={tiny_pool.name}"))
    visit.page.wait_for_selector("#nm-cards", state="visible")
    visit.page.wait_for_function("document.querySelector('#nm-scale input[type=range]').value === '0'")
    tab(visit, "Compare")
    expect(visit.page.locator("#nm-compare-content")).to_contain_text("are held against each other")
    # Back to a pool of the same candidates: nothing but the pool changes, and the address tells it all the same.
    visit.page.locator("#nm-pool input").click()
    visit.page.get_by_role("option", name=compared[2].parent.name, exact=True).click()
    visit.page.wait_for_url(lambda url: "pool=" not in url)


def test_a_comparison_that_ends_on_another_floor_is_not_shown_there(visit, monkeypatch):
    go = threading.Event()

    def follow(compare, visitor, keep, buffers="keep"):
        yield "<p>under way</p>", ""
        assert go.wait(SLOW / 1000)
        yield "", "<p>a table</p>"

    def set_floor(text):
        visit.page.locator("#nm-floor input[type=number]").fill(text)
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_timeout(500)

    monkeypatch.setattr("negmerge_kit.app.pages.compare.follow", follow)
    monkeypatch.setattr("negmerge_kit.app.pages.compare.Compare.ready", lambda compare, *at: False)
    progress, content = visit.page.locator("#nm-compare-progress"), visit.page.locator("#nm-compare-content")
    tab(visit, "Compare")
    set_floor("0.9")
    visit.page.locator("#nm-compare").click()
    expect(progress).to_contain_text("under way")
    set_floor("0.85")
    go.set()
    expect(progress).to_contain_text("This page is about something else by now")
    expect(content).not_to_contain_text("a table")
    visit.page.locator("#nm-compare").click()
    expect(content).to_contain_text("a table")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(browser, pages, theme):
    visit = Visit(browser, f"{pages}?__theme={theme}&scale=0.5", viewport={"width": 1340, "height": 900})
    found = []
    for name, shown in SHOWN.items():
        tab(visit, name)
        visit.page.wait_for_selector(shown)
        found += [(name, *part) for part in inaccessible(visit)]
    visit.page.close()
    assert found == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_narrow_pages_do_not_scroll_sideways(browser, pages, theme):
    visit = Visit(browser, f"{pages}?__theme={theme}", viewport={"width": 390, "height": 844})
    for name, shown in SHOWN.items():
        tab(visit, name)
        visit.page.wait_for_selector(shown)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 390, name
        assert inaccessible(visit) == [], name
    visit.page.close()
    assert visit.errors == [] and visit.outside == []
