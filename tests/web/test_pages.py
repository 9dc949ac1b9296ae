"""The other pages in Chromium: a row that is clicked stands on Unlearn, votes and audit follow, nothing is cut."""

import re
import zipfile

import pytest
from playwright.sync_api import expect

from negmerge_kit.views.style import percent

from .conftest import free_port
from .test_browser import Visit, browser, pytestmark  # noqa: F401


@pytest.fixture(scope="module")
def pages(compared):
    """A served app on the pool whose comparison is finished."""
    from negmerge_kit.web import serve

    port = free_port()
    blocks = serve(compared[2], device="cpu", port=port, block=False)
    yield f"http://127.0.0.1:{port}/"
    blocks.close(verbose=False)


@pytest.fixture
def visit(browser, pages):  # noqa: F811
    visit = Visit(browser, pages, viewport={"width": 1340, "height": 900})
    yield visit
    visit.page.close()
    assert visit.errors == [] and visit.outside == []


def tab(visit, name):
    visit.page.get_by_role("tab", name=name).click()


def test_a_clicked_row_of_a_kept_comparison_stands_on_unlearn(visit, compared):
    comparison = compared[0].known(0.95)
    tab(visit, "Compare")
    buttons = visit.page.locator("#nm-rules button")
    expect(buttons).to_have_count(4)  # found in the pool: nobody pressed anything
    uniform = comparison.rows[0]
    visit.page.get_by_role("button", name=f"load {uniform.entrant.title} at scale {uniform.scale:.2f}").click()
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
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="unlearned.zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert "audit.json" in archive.namelist()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_narrow_pages_do_not_scroll_sideways(browser, pages, theme):  # noqa: F811
    visit = Visit(browser, f"{pages}?__theme={theme}", viewport={"width": 390, "height": 844})
    for name, shown in (("Compare", "#nm-rules"), ("Agreement", "#nm-map svg"), ("Audit", "#nm-probes")):
        tab(visit, name)
        visit.page.wait_for_selector(shown)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 390, name
    visit.page.close()
    assert visit.errors == [] and visit.outside == []
