"""Hostile calls, seeded, a thousand over the page's functions and a thousand to each named endpoint.

Each gets a plain answer or a sentence, none a bug, none a byte from elsewhere.
"""

import asyncio
import json
import random
import shutil
from pathlib import Path

import gradio as gr
import pytest

from negmerge_kit.app.api import Endpoints, publish
from negmerge_kit.app.downloads import Downloads
from negmerge_kit.app.errors import as_gradio_error
from negmerge_kit.app.pages.agreement import WHOLE, AgreementPage
from negmerge_kit.app.pages.audit import AuditPage
from negmerge_kit.app.pages.compare import follow, shown_first
from negmerge_kit.app.pools import Pools
from negmerge_kit.errors import NegmergeError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.progress import no_progress

from .conftest import DIALS

CALLS = 1000
SECRET = "a-secret-that-no-answer-may-hold"
NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e9, -1, 1e-300, 10**400, -0.0, 2**63]
TEXTS = [
    "",
    "\0",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\pool.json",
    "pool.json",
    "base.safetensors",
    "null",
    "NaN",
    "<script>alert(1)</script>",
    "x" * 100_000,
    "0:1:1e-9",
    "1e999",
    "0:1e99:1",
    "\ud800",
    "%00",
    ":::",
    "{0.__class__}",
    "a\r\nSet-Cookie: b",
    "ties:density=nan",
    "negmerge:agreement=",
    "file:///etc/passwd",
]
OTHERS = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"a": {"b": []}},
    {"__class__": 1},
    b"\0",
    ["../x"] * 20_000,
    [0] * 20_000,
    {"agreement": "high"},
    {"agreement": float("nan")},
    {"agreement": [1]},
    {1: 2},
    {"path": "/etc/passwd"},
]


@pytest.fixture
def secret(tmp_path):
    """A file beside the pool that nothing may read, and more ways to name it."""
    file = tmp_path / "secret.txt"
    file.write_text(SECRET)
    (tmp_path / "link").symlink_to(file)
    return [str(file), f"file://{file}", str(tmp_path / "link"), "../secret.txt", f"{tmp_path.name}/../secret.txt"]


def hostile(lot, secret):
    return lot.choice(lot.choice([NUMBERS, TEXTS, OTHERS, secret]))


def drained(answer):
    return list(answer) if hasattr(answer, "__next__") else answer


@pytest.mark.slow
def test_a_thousand_calls_are_answered_or_refused_in_a_sentence(page, bench, tmp_path, secret):
    pools, name = Pools([bench.pool], made=tmp_path / "made", device="cpu", read_only=True), bench.pool.folder.name
    jobs, compare, endpoints = pools.jobs, pools.open(name).compare, Endpoints(pools)
    audits = AuditPage(page, jobs, Downloads(page.scored, tmp_path / "made"))
    agreements = AgreementPage(page, jobs)
    ids, folder = bench.pool.ids, bench.pool.folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    # At least one argument of each is replaced; those that would run long by themselves start from a refused one.
    calls = {
        "score": (endpoints.score, [name, ids, "negmerge", 0.5, {}, "live"]),
        "search": (endpoints.search, ["other-pool", ids, "negmerge", {}, 0.95, "0:1:0.5", False, False]),
        "compare": (endpoints.compare, ["other-pool", "uniform", "none", 0.95, "0:1:0.5"]),
        "moved": (page.moved, [ids, "negmerge", 0.95, 0.5, *DIALS]),
        "find": (lambda *values: page.find("me", *values), [[], "negmerge", 0.95, *DIALS]),
        "floor": (
            lambda keep: (shown_first(compare, keep), list(follow(compare, "me", keep)) if keep != keep else ""),
            [0.95],
        ),
        "row": (lambda row, which: compare.load(row, which, 0.95), ["negmerge", "matched"]),
        "votes": (agreements.votes, [WHOLE, ids, "negmerge", *DIALS]),
        "layers": (agreements.show, [WHOLE, ids, "negmerge", *DIALS]),
        "audit": (lambda *values: audits.run("me", *values), [["fortune"], ids, "negmerge", 0.95, 0.5, *DIALS]),
        "audited": (audits.show, [ids, "negmerge", 0.95, 0.5, *DIALS]),
        "card": (lambda *values: audits.write("page", no_progress, *values), [[], "negmerge", 0.95, 0.5, *DIALS]),
    }
    lot, refused = random.Random(7), 0
    for number in range(CALLS):
        which = lot.choice(list(calls))
        function, good = calls[which]
        values = list(good)
        for place in lot.sample(range(len(values)), min(len(values), lot.randint(1, 3))):
            values[place] = hostile(lot, secret)
        said = ""
        try:
            said = str(drained(as_gradio_error(function)(*values)))
        except (gr.Error, NegmergeError) as error:
            said, refused = str(error), refused + 1
            assert len(said) < 12_000 and "Traceback" not in said
        except Exception as error:
            raise AssertionError(f"call {number}, {which}{str(values)[:300]}: {error!r}") from error
        assert SECRET not in said and "root:" not in said, (which, values)
        # What a visitor sends comes back as text only.
        assert "<script>" not in said or which in ("score", "search", "compare", "row", "card", "find")
    assert refused > CALLS / 4
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert jobs.do(lambda job: "alive") == "alive"
    assert endpoints.score(name, ids, "negmerge", 0.5, {}, "live")["forget"]["n"] == 240


@pytest.fixture(scope="module")
def two_pools(tiny_pool, tmp_path_factory):
    """Two pools served side by side, `mine` and `theirs`, each with candidates that the other lacks."""
    folder = tmp_path_factory.mktemp("two")
    for name, part in (("mine", slice(2)), ("theirs", slice(2, None))):
        record = Path(shutil.copytree(tiny_pool, folder / name)) / "pool.json"
        told = json.loads(record.read_text())
        told["candidates"] = told["candidates"][part]
        record.write_text(json.dumps(told))
    return Pools([folder / "mine", folder / "theirs"], made=folder / "made", device="cpu", read_only=True)


@pytest.fixture(scope="module")
def published(two_pools):
    """The named endpoints as gradio hands calls on to them, without the page and without HTTP."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        publish(Endpoints(two_pools))
    functions = {function.api_name: function for function in blocks.fns.values()}
    return lambda which, values: blocks.process_api(functions[which], values)


GOOD = {
    "pools": [],
    "score": ["mine", None, "negmerge", 0.5, None, "live", "keep"],
    "search": ["mine", None, "negmerge", None, 0.95, "0:1:0.5", False, False, "keep"],
    "compare": ["mine", "uniform", "none", 0.95, "0:1:0.5", "keep"],
}


@pytest.mark.slow
@pytest.mark.parametrize("which", GOOD)
def test_each_endpoint_survives_a_thousand_calls_with_other_pools_ids_among_them(which, two_pools, published, secret):
    mine, theirs = (two_pools.open(id).bench.pool for id in two_pools.ids)
    stranger = theirs.ids[0]
    assert stranger not in mine.ids
    others = [
        "theirs",
        "mine/../theirs",
        stranger,
        [stranger],
        [*mine.ids, stranger],
        {"agreement": stranger},
        f"../theirs/candidates/{stranger}.safetensors",
        {"path": str(theirs.folder / "pool.json")},
    ]
    before = {path: path.stat().st_mtime_ns for pool in (mine, theirs) for path in pool.folder.rglob("*")}

    async def called(values):
        try:
            return str((await published(which, values))["data"][0]), False
        except (gr.Error, NegmergeError) as error:
            return str(error), True

    async def attack():
        lot, refused = random.Random(which), 0
        for number in range(CALLS):
            values = list(GOOD[which]) or [hostile(lot, secret) for _ in range(lot.randint(1, 3))]
            # Up to three bad arguments: hardly any call is then in order by chance, and works for long.
            for place in lot.sample(range(len(values)), min(len(values), lot.randint(1, 3))):
                values[place] = lot.choice(others) if lot.random() < 0.3 else hostile(lot, secret)
            said, no = await called(values)
            refused += no
            assert SECRET not in said and "root:" not in said and "Traceback" not in said, (number, str(values)[:300])
        return refused

    refused = asyncio.run(attack())
    assert refused == 0 if which == "pools" else refused > 0.9 * CALLS
    if which in ("score", "search"):  # all else in order, so it is the other pool's candidate that is refused
        for ids in ([stranger], [*mine.ids, stranger]):
            said, no = asyncio.run(called(["mine", ids, *GOOD[which][2:]]))
            assert no and f"no candidate '{stranger}'" in said
    assert {path: path.stat().st_mtime_ns for pool in (mine, theirs) for path in pool.folder.rglob("*")} == before
    assert asyncio.run(called(GOOD[which]))[1] is False


@pytest.fixture(scope="module")
def http(address):
    import httpx

    with httpx.Client(base_url=address, timeout=60) as http:
        yield http


@pytest.mark.slow
def test_hidden_handlers_take_no_bytes_from_elsewhere(http, bench, tmp_path, secret):
    """Every handler of the page can be called by number; nonsense ends in an error event, and the app goes on."""
    config = http.get("config").json()
    lot = random.Random(11)
    for dependency in config["dependencies"]:
        data = [hostile(lot, secret) for _ in dependency["inputs"]]
        body = json.dumps({"data": data, "fn_index": dependency["id"], "session_hash": "hostile"}, default=str)
        answer = http.post("gradio_api/run/predict", content=body.encode("utf-8", "replace"))
        assert SECRET not in answer.text and "root:" not in answer.text and "Traceback" not in answer.text
    pool = open_pool(bench.pool.folder)
    assert pool.verify() == []
    assert http.get("").status_code == 200


@pytest.mark.parametrize(
    "where", ["gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/", "theme.css/../"]
)
def test_no_file_is_served_from_elsewhere(http, bench, secret, where):
    for path in (
        *secret,
        "/etc/passwd",
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/proc/self/environ",
        str(bench.pool.folder / "pool.json"),
        str(bench.pool.folder / "base.safetensors"),
    ):
        answer = http.get(f"{where}{path}")
        assert SECRET not in answer.text and "root:" not in answer.text and '"candidates"' not in answer.text
        assert answer.status_code >= 400 or "<html" in answer.text.lower()
