"""The real page in Chromium: a visitor's whole way from candidates to a file, by mouse and by keyboard."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .visits import SLOW, Visit

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(browser, address):
    visit = Visit(browser, address, viewport={"width": 1340, "height": 900})
    yield visit
    visit.page.close()
    assert visit.errors == []
    assert visit.outside == []


def test_a_newcomer_is_told_what_to_press_and_everything_is_chosen(visit, bench):
    expect(visit.page.locator("#nm-notice")).to_contain_text("Find the best scale")
    boxes = visit.page.locator("#nm-picker input[type=checkbox]")
    expect(boxes).to_have_count(3)
    assert all(boxes.nth(place).is_checked() for place in range(3))
    base = bench.base_scores("live")
    assert visit.number("#nm-forget-now") == round(100 * base.forget.value, 1)
    assert visit.number("#nm-retain-now") == round(100 * base.retain.value, 1)


def test_the_number_field_moves_numbers_marker_and_pictures(visit, bench):
    gallery = visit.html("#nm-says .nm-gallery >> nth=0")
    visit.set_scale("1.2")
    visit.at("1.2")
    scores = bench.score(bench.choose(), 1.2, "live")
    assert visit.number("#nm-forget-now") == round(100 * scores.forget.value, 1)
    assert visit.number("#nm-retain-now") == round(100 * scores.retain.value, 1)
    assert visit.html("#nm-says .nm-gallery >> nth=0") != gallery
    assert "was" in visit.text("#nm-cards") and "below the floor" in visit.text("#nm-cards")


def test_the_slider_moves_by_keyboard(visit):
    visit.set_scale("0.5")
    visit.at("0.5")
    left = visit.page.locator(".nm-marker .nm-line").get_attribute("style")
    slider = visit.page.locator("#nm-scale input[type=range]")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    visit.at("0.53")
    assert visit.page.locator(".nm-marker .nm-line").get_attribute("style") != left


def test_toggling_candidates_changes_numbers_agreement_and_curve(visit):
    visit.set_scale("0.6")
    visit.at("0.6")
    before = {part: visit.html(part) for part in (".nm-cards", "#nm-agreement .nm-wide", "#nm-curve-box svg")}
    visit.page.locator("#nm-picker label").nth(0).click()
    expect(visit.page.locator("#nm-kept")).to_contain_text("2 of 2")
    for part, html in before.items():
        visit.changes(part, html)
    visit.page.get_by_role("button", name="none", exact=True).click()
    expect(visit.page.locator("#nm-notice [role=alert]")).to_contain_text("tick at least one in step 1")
    visit.page.get_by_role("button", name="all", exact=True).click()
    expect(visit.page.locator("#nm-kept")).to_contain_text("3 of 3")
    expect(visit.page.locator("#nm-notice [role=alert]")).to_have_count(0)


def test_dials_belong_to_the_rule_and_the_line_counts_votes(visit):
    agreement = visit.page.get_by_label("number input for Agreement")
    agreement.fill("0.6")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#nm-kept")).to_contain_text("2 of 3")
    visit.page.locator("#nm-rule input").click()
    visit.page.get_by_role("option", name="Uniform").click()
    expect(agreement).to_be_hidden()
    expect(visit.page.locator("#nm-kept")).to_contain_text("100.0")


def test_best_scale_is_found_and_the_file_opens_in_open_clip(visit, bench, tmp_path):
    import open_clip
    from safetensors.torch import load_file

    curve = visit.html("#nm-curve-box svg")
    visit.page.locator("#nm-find").click()
    best = visit.page.locator("#nm-best")
    best.wait_for()
    scale = float(best.inner_text())
    choice = bench.choose()
    found = bench.search(choice)
    assert scale == found.best.scale
    visit.at(f"{scale:g}")
    expect(visit.page.locator(".nm-test")).to_contain_text("n = 357")
    expect(visit.page.locator("#nm-cards")).to_contain_text("n = 1,440")
    visit.changes("#nm-curve-box svg", curve)
    expect(visit.page.locator("#nm-find")).to_be_enabled()

    files = {}
    for name in ("unlearned.safetensors", "unlearned.json"):
        with visit.page.expect_download() as download:
            visit.page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename == name
        files[name] = Path(shutil.copy(download.value.path(), tmp_path / name))
    written = load_file(files["unlearned.safetensors"])
    for name, tensor in bench.unlearned(choice, scale):
        assert tensor.equal(written[name])
    model = open_clip.create_model("negmerge-tiny", pretrained=str(files["unlearned.safetensors"]))
    assert model.visual.proj.equal(written["visual.proj"])
    record = json.loads(files["unlearned.json"].read_text())
    assert record["scale"] == scale and "search" in record["chosen"]
    assert record["scores"]["test"]["forget"]["n"] == 357


def test_a_newcomer_sees_three_steps_once(visit, browser, address):
    hint = visit.page.locator("#nm-hint")
    expect(hint).to_contain_text("Choose candidates")
    hint.get_by_role("button", name="Got it").press("Enter")
    expect(hint).to_be_hidden()
    assert visit.page.evaluate("Object.keys(localStorage)") == ["negmerge-hint"]
    again = Visit(browser, address, storage_state=visit.page.context.storage_state())
    expect(again.page.locator("#nm-hint")).to_be_hidden()
    again.page.close()


def test_an_example_is_one_click_away(visit, bench):
    visit.page.get_by_role("button", name="one candidate").click()
    best = visit.page.locator("#nm-best")
    best.wait_for()
    expect(visit.page.locator("#nm-rule input")).to_have_value("Task arithmetic (one candidate)")
    expect(visit.page.locator("#nm-picker input:checked")).to_have_count(1)
    visit.page.wait_for_url(re.compile("rule=task-arithmetic"))
    expect(visit.page.locator("#nm-find")).to_be_enabled(timeout=30_000)


def test_a_search_is_cancelled_and_can_be_started_again(visit):
    visit.page.get_by_label("number input for keep at least").fill("0.89")  # a floor that no test has searched
    visit.page.keyboard.press("Enter")
    visit.page.locator("#nm-find").click()
    visit.page.locator("#nm-find-stop").click()
    expect(visit.page.locator("#nm-find")).to_have_text("Find the best scale")
    expect(visit.page.locator("#nm-find-stop")).to_be_hidden()
    expect(visit.page.locator("#nm-result .nm-progress")).to_have_count(0)


@pytest.mark.parametrize("width", [390, 768])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_narrow_pages_are_one_column_with_nothing_cut(browser, address, width, theme):
    visit = Visit(browser, f"{address}?__theme={theme}", viewport={"width": width, "height": 844})
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    for part in ("#nm-cards", "#nm-step-1", "#nm-step-3", "#nm-find", "#nm-curve", "#nm-says", "#nm-agreement"):
        box = visit.page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5, part
    pool, chip = (visit.page.locator(part).bounding_box() for part in ("#nm-pool", "#nm-device"))
    assert pool["x"] + pool["width"] <= chip["x"] and pool["y"] < chip["y"] < pool["y"] + pool["height"]  # one line
    steps = [visit.page.locator(f"#nm-step-{number}").bounding_box()["y"] for number in (1, 2, 3, 4)]
    assert steps == sorted(steps)
    visit.page.close()
    assert visit.errors == [] and visit.outside == []


def test_the_dark_page_is_dark(browser, address):
    visit = Visit(browser, f"{address}?__theme=dark")
    colours = visit.page.evaluate(
        "[document.body, document.querySelector('.nm-card')].map(e => getComputedStyle(e).backgroundColor)"
    )
    assert all(sum(map(int, re.findall(r"\d+", colour)[:3])) < 150 for colour in colours)
    visit.page.close()


def test_a_running_job_can_be_cancelled_and_begun_again(visit):
    visit.page.get_by_role("tab", name="Agreement", exact=True).click()
    start, stop = visit.page.locator("#nm-explain"), visit.page.locator("#nm-explain-stop")
    start.click()
    expect(stop).to_be_enabled(timeout=SLOW)
    expect(start).to_be_disabled()
    expect(visit.page.locator("#nm-explain-progress")).to_contain_text("Steps along", timeout=SLOW)
    stop.click()
    expect(visit.page.locator("#nm-explain-progress")).to_contain_text("Cancelled", timeout=SLOW)
    expect(start).to_be_enabled(timeout=SLOW)
    expect(stop).to_be_disabled()
