"""A visitor's whole story in Chromium, from images to an unlearned file; and a server that is killed in the middle."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from negmerge_kit.app.plans import Plans
from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.cli import main
from negmerge_kit.plots.style import percent
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.training.recipe import Recipe

from .conftest import free_port
from .drawings import drawings, zipped
from .visits import Visit, inaccessible, tab

pytestmark = pytest.mark.browser

SLOW = 120_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of this module's own: what it makes is served by no other test."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEGMERGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def app(tiny_pool, cache):
    from negmerge_kit.app import serve

    port = free_port()
    blocks = serve(tiny_pool, device="cpu", port=port, block=False)
    yield f"http://127.0.0.1:{port}/"
    blocks.close(verbose=False)


def test_from_sixty_images_to_a_checkpoint_that_evaluate_confirms(browser, app, cache, tmp_path, capsys):
    folder = tmp_path / "stripes"
    for name, data in drawings().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    visit = Visit(browser, app, viewport={"width": 1340, "height": 900})
    page = visit.page
    tab(visit, "Fine-tune")
    expect(page.locator("#nm-begun-none")).to_contain_text("press “Use this”")  # and no buttons with nothing to act on
    expect(page.locator("#nm-resume")).to_be_hidden()
    page.locator("#nm-use").click()
    expect(page.locator("#nm-scene-message [role=alert]")).to_be_visible()
    assert inaccessible(visit, 1340, 390) == []
    page.get_by_label("an embedded family").check()
    page.locator("#nm-family input").click()
    page.get_by_role("option", name="colours", exact=True).click()
    page.locator("#nm-use").click()
    expect(page.locator("#nm-scene-message")).to_contain_text("colours: candidates learn from", timeout=SLOW)
    page.get_by_label("images of your own").check()
    page.locator("#nm-zip input[type=file]").set_input_files(zipped(tmp_path / "few.zip", drawings(8)))
    page.get_by_label("Name").fill("few")
    expect(page.locator("#nm-zip")).to_contain_text("few")
    page.locator("#nm-use").click()
    expect(page.locator("#nm-scene-message")).to_contain_text("few: 24 images in 3 classes", timeout=SLOW)
    page.locator("#nm-folder input[type=file]").set_input_files(folder)
    page.get_by_label("Name").fill("stripes")
    page.locator("#nm-families label", has_text="textures").click()
    expect(page.locator("#nm-folder tbody tr")).to_have_count(60)
    page.locator("#nm-use").click()
    expect(page.locator("#nm-scene-message")).to_contain_text(
        "60 images in 3 classes (diagonal stripes 20", timeout=SLOW
    )
    expect(page.locator("#nm-recipes")).to_contain_text("44")
    expect(page.locator("#nm-cost")).to_contain_text("2 candidates, 132 epochs of 48 images: about", timeout=SLOW)
    epochs = page.locator("#nm-recipes [data-row='0'][data-col='1']")
    epochs.dblclick()
    epochs.locator("textarea, input").fill("45")
    page.keyboard.press("Enter")
    expect(page.locator("#nm-cost")).to_contain_text("133 epochs of 48 images: about", timeout=SLOW)
    assert inaccessible(visit, 1340, 390) == []
    page.locator("#nm-finetune").click()
    expect(page.locator("#nm-finetune-progress")).to_contain_text("of 2 candidates of stripes are done", timeout=SLOW)
    expect(page.locator("#nm-finetune-progress")).to_contain_text("2 of 2", timeout=SLOW)
    expect(page.locator("#nm-losses svg")).to_be_visible()
    expect(page.locator("#nm-begun-none")).to_be_hidden()
    expect(page.locator("#nm-finetune")).to_be_enabled()
    assert inaccessible(visit, 1340, 390) == []
    page.locator("#nm-begun-list label", has_text="stripes").click()
    page.locator("#nm-open").click()
    page.wait_for_url("**pool=app-stripes-*")
    expect(page.locator("#nm-cards")).to_contain_text("stripes", timeout=SLOW)
    pool = next(cache.glob("pools/app-stripes-*"))
    assert open_pool(pool).verify() == []
    assert sorted(entry.recipe["epochs"] for entry in open_pool(pool).entries) == [45, 88]  # as the table said

    page.locator("#nm-find").click()
    page.locator("#nm-best").wait_for(timeout=SLOW)
    expect(page.locator("#nm-find")).to_be_enabled()
    assert inaccessible(visit, 1340, 390) == []
    files = {}
    for name in ("unlearned.safetensors", "unlearned.json"):
        with page.expect_download(timeout=SLOW) as download:
            page.get_by_role("button", name=name).click()
        files[name] = Path(shutil.copy(download.value.path(), tmp_path / name))
    record = json.loads(files["unlearned.json"].read_text())
    assert record["scale"] == float(visit.text("#nm-best")) > 0

    said = {"test": visit.text(".nm-result .nm-test"), "val": visit.text(".nm-result .nm-validation")}
    for split in ("val", "test"):
        assert (
            main(
                [
                    "evaluate",
                    str(files["unlearned.safetensors"]),
                    "--scene",
                    str(pool),
                    "--split",
                    split,
                    "--device",
                    "cpu",
                    "--json",
                ]
            )
            == 0
        )
        measured = json.loads(capsys.readouterr().out)
        for side in ("forget", "retain"):
            assert percent(measured[side]["value"]) in said[split], (split, side, measured[side], said[split])
            if split == "test":
                assert measured[side] == record["scores"]["test"][side]
    page.close()
    assert visit.errors == [] and visit.outside == []
    assert list(Path(os.environ["GRADIO_TEMP_DIR"]).parent.glob("checking/*")) == []


class Server:
    """`negmerge demo` in a process of its own."""

    def __init__(self, pool, cache):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}/"
        command = [sys.executable, "-m", "negmerge_kit.cli", "demo", "--pool", str(pool), "--device", "cpu"]
        environment = os.environ | {"NEGMERGE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + SLOW / 1000
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline
            try:
                urllib.request.urlopen(self.address, timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Kill it: it has no moment to put anything in order."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def test_a_server_killed_while_it_fine_tunes_goes_on_when_it_is_started_again(browser, tiny_pool, tmp_path):
    cache = tmp_path / "cache"
    recipes = (Recipe(lr=1e-3, epochs=1), Recipe(lr=2e-3, epochs=2000))
    plan = Plans(cache / "pools").of_family("colours").with_recipes(recipes)
    plan.write()

    def state():
        return next(plan.folder.glob("unfinished/*.safetensors"), None)

    with Server(tiny_pool, cache) as server:
        visit = Visit(browser, server.address)
        tab(visit, "Fine-tune")
        expect(visit.page.locator("#nm-finetune-progress")).to_contain_text("tiny:colours has 0 of 2 candidates")
        visit.page.locator("#nm-resume").click()
        deadline = time.monotonic() + SLOW / 1000
        while not (plan.done and state()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        visit.page.close()
    assert plan.done == 1
    saved = len(open_checkpoint(state()).metadata["losses"])
    assert saved > 5
    with Server(tiny_pool, cache) as server:
        visit = Visit(browser, server.address)
        tab(visit, "Fine-tune")
        told, figure = visit.page.locator("#nm-finetune-progress"), visit.page.locator("#nm-losses svg")
        expect(told).to_contain_text("tiny:colours has 1 of 2 candidates")
        visit.page.locator("#nm-resume").click()
        expect(figure).to_have_attribute("aria-label", re.compile("2000 epochs"), timeout=SLOW)
        assert int(figure.get_attribute("aria-label").split("after step ")[1].split(" ")[0]) > saved
        visit.page.locator("#nm-finetune-stop").click()
        expect(told).to_contain_text("1 of 2 candidates of tiny:colours are done. Stopped", timeout=SLOW)
        visit.page.close()
        assert visit.errors == [] and visit.outside == []
    assert open_pool(plan.folder).verify() == []
