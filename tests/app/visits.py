"""A visitor's tab in Chromium, and what tests need to open one."""

import re
import shutil

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from negmerge_kit.app.score_cache import LIVE_SCALES

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SLOW = 30_000

expect.set_options(timeout=SLOW)  # the machine may be busy with another worker's tests


class Visit:
    """A page, and all that went wrong on it."""

    def __init__(self, browser, address, **options):
        self.page = browser.new_page(accept_downloads=True, **options)
        self.page.set_default_timeout(SLOW)
        self.errors, self.outside, self.addresses = [], [], []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("framenavigated", lambda frame: self.addresses.append(frame.url))  # each that it writes, too
        self.page.goto(address)
        self.page.wait_for_selector("#nm-scale input[type=range]")
        # Settled once the live curve has its last scale: nothing else changes by itself after it.
        dots = 2 * (1 + len(LIVE_SCALES))
        self.page.wait_for_function(f"document.querySelectorAll('#nm-curve-box svg use').length >= {dots}")

    def _request(self, request):
        if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", request.url):
            self.outside.append(request.url)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def number(self, selector):
        return float(self.text(selector).replace("%", "").strip())

    def html(self, selector):
        return self.page.locator(selector).inner_html()

    def changes(self, selector, before):
        """Wait until the inner HTML of one of our own elements is another (gradio's hold its status line too)."""
        self.page.wait_for_function(
            "([selector, before]) => document.querySelector(selector)?.innerHTML !== before", arg=[selector, before]
        )

    def at(self, scale):
        """Wait until numbers and marker stand at this scale."""
        self.page.wait_for_selector(f".nm-marker[data-scale='{scale}']", state="attached")

    def set_scale(self, text):
        self.page.get_by_label("number input for scale λ").fill(text)
        self.page.keyboard.press("Enter")


def tab(visit, name):
    visit.page.get_by_role("tab", name=name).click()


SETTLED = """Promise.all(document.getAnimations().filter(a => a.effect.getComputedTiming().endTime < Infinity)
  .map(a => a.finished.catch(() => null)))"""


def inaccessible(visit, *widths):
    """What axe finds serious or critical on the page as it stands, at its width or at each of these."""
    size, found = visit.page.viewport_size, []
    for width in widths or (size["width"],):
        visit.page.set_viewport_size({**size, "width": width})
        visit.page.evaluate(SETTLED)  # a button that fades in has another contrast on the way
        for part in Axe().run(visit.page).response["violations"]:
            if part["impact"] in ("serious", "critical"):
                found += [(width, part["id"], node["target"], node["html"][:120]) for node in part["nodes"]]
    visit.page.set_viewport_size(size)
    return found
