"""The page over the quick pool: as functions, and served on a free port."""

import os
import shutil
import socket

import pytest
from playwright.sync_api import sync_playwright

from negmerge_kit.merging.rules import RULES

from .visits import CHROMIUM

DIALS = [parameter.default for rule in RULES.values() for parameter in rule.parameters] + ["keep"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What apps begin and decode in these tests; the pools that somebody has made on this machine are not served."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEGMERGE_CACHE", str(tmp_path_factory.mktemp("app-cache")))
        yield


@pytest.fixture(scope="module")
def browser():
    """Chromium. Where it is missing these tests say so; where CI is set they fail instead: CI must run them."""
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium found: `apt-get install chromium` lets these tests run")
    assert CHROMIUM, "CI is set but no Chromium was found: install it, the browser tests must run"
    with sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page(bench):
    """The main page's functions."""
    from negmerge_kit.app.pages.unlearn import Unlearn
    from negmerge_kit.app.score_cache import Scored

    return Unlearn(Scored(bench))


@pytest.fixture(scope="session")
def address(tiny_pool):
    """A served page over the quick pool, on the CPU."""
    from negmerge_kit.app import serve

    port = free_port()
    blocks = serve(tiny_pool, device="cpu", port=port, block=False)
    yield f"http://127.0.0.1:{port}/"
    blocks.close(verbose=False)


@pytest.fixture(scope="session")
def two():
    """Two rules, so that a comparison is quick."""
    from negmerge_kit.comparison.methods import find_methods

    return find_methods("uniform,negmerge", "none")


@pytest.fixture(scope="session")
def compared(tiny_pool, two, tmp_path_factory):
    """A page's comparison of two rules on a pool of its own, with what was told on the way."""
    from negmerge_kit.app.jobs import Jobs
    from negmerge_kit.app.pages import compare as comparing
    from negmerge_kit.app.pages.compare import Compare, follow
    from negmerge_kit.comparison.methods import find_methods
    from negmerge_kit.pools.pool import open_pool
    from negmerge_kit.unlearning.workbench import Workbench

    folder = shutil.copytree(tiny_pool, tmp_path_factory.mktemp("compared") / "pool")
    compare = Compare(Workbench(open_pool(folder), device="cpu"), Jobs())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "find_methods", lambda *texts: two if not texts else find_methods(*texts))
        assert not compare.ready(0.95)
        told = list(follow(compare, "me", 0.95))
        yield compare, told, folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "arrived").mkdir()
    return tmp_path
