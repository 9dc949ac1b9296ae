"""Whatever handlers the running app has, found from what it serves: a thousand hostile calls to them over HTTP."""

import json
import os
import random
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx
import pytest

from negmerge_kit.pools.pool import open_pool

from .conftest import free_port

LEAST_CALLS = 1000
SECRET = "a-secret-that-no-answer-may-hold"
EVIL = "https://evil.example"
NUMBERS = [float("nan"), float("inf"), -1, 0, 1e9, 10**400, -(2**63), 1e-320, 0.95]
TEXTS = [
    "",
    "\0",
    "../../etc/passwd",
    "/etc/passwd",
    "/proc/self/environ",
    "..\\..\\pool.json",
    "file:///etc/passwd",
    "other-pool",
    "http://127.0.0.1:1/x",
    "a\r\nSet-Cookie: stolen=1",
    "<img src=x onerror=alert(1)>",
    "negmerge",
    "x" * 9000,
    "{0.__class__.__mro__}",
    "$(id)",
    "ray://127.0.0.1:1",
    "%2e%2e%2f",
    "lr = [1]\nepochs = 99999",
]
SHAPES = [
    None,
    True,
    [],
    {},
    [[[[]]]],
    [None],
    ["../x"] * 2000,
    [0] * 2000,
    {"__class__": 1},
    {"a": {"b": [{}]}},
    {"": None},
    [["lr", float("nan")], ["epochs"]],
    {"headers": ["lr"], "data": [[None]]},
    {"__type__": "update", "value": 1},
]


def as_files(path):
    """A path as gradio's components take files: as an upload, as an address, in a list."""
    meta = {"meta": {"_type": "gradio.FileData"}}
    named = {"path": path, "orig_name": "a\r\nX-Evil: 1.png", **meta}
    return [named, [named], {"path": None, "url": f"file://{path}", **meta}, {"video": named}, {"background": named}]


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A file that nothing may read, a link to it, and ways to name both."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.txt").write_text(SECRET)
    (folder / "link.png").symlink_to(folder / "secret.txt")
    paths = [str(folder / "secret.txt"), str(folder / "link.png"), f"{folder}/x/../secret.txt"]
    return paths + [file for path in (*paths, "/etc/passwd") for file in as_files(path)]


@pytest.fixture(scope="module")
def app(tiny_pool, tmp_path_factory):
    """The whole app, with nothing closed, on a pool of its own."""
    from negmerge_kit.app import serve

    pool = Path(shutil.copytree(tiny_pool, tmp_path_factory.mktemp("hostile") / "pool"))
    port = free_port()
    blocks = serve(pool, device="cpu", port=port, block=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        yield blocks, http, pool
    blocks.close(verbose=False)


def bad(lot, canary):
    return lot.choice(lot.choice([NUMBERS, TEXTS, SHAPES, canary]))


def sent(value):
    """JSON as an attacker writes it: with NaN, infinity and lone surrogates."""
    return json.dumps(value).encode("utf-8", "replace")


def post(http, path, body):
    """The answer to a POST; a connection that the server gives up is an answer, too."""
    try:
        return http.post(path, content=body, headers={"content-type": "application/json"})
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        return httpx.Response(500, text=str(error))


def called(http, event, data, session):
    """All that a handler answers, to its end."""
    body = sent({"data": data, "fn_index": event["id"], "session_hash": session, "trigger_id": None, "event_data": {}})
    if not event["types"]["generator"]:
        return post(http, "/gradio_api/run/predict", body).text
    joined = post(http, "/gradio_api/queue/join", body)
    if joined.status_code != 200:
        return joined.text
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        said = ""
        for line in stream.iter_lines():
            said += line + "\n"
            if '"process_completed"' in line or '"close_stream"' in line or '"unexpected_error"' in line:
                break
    return said


def bugs(log):
    """Traces that end in anything but an error meant for the visitor and that have passed through our code."""
    for trace in log.split("Traceback (most recent call last):")[1:]:
        ending = next(
            (line for line in reversed(trace.splitlines()) if re.match(r"[\w.]+(Error|Exception)\b", line)), ""
        )
        ours = re.search(r"negmerge_kit/(?!app/(errors|buttons)\.py)", trace)
        if ours and not ending.startswith(("gradio.exceptions.Error", "gradio_client")):
            yield trace[-3000:]


@pytest.mark.slow
def test_every_handler_survives_a_thousand_hostile_calls(app, canary, capfd):
    _, http, pool = app
    config = http.get("/config").json()
    events = [event for event in config["dependencies"] if event["backend_fn"]]
    good = {part["id"]: part["props"].get("value") for part in config["components"]}
    outside = {path: path.read_bytes() for path in Path(canary[0]).parent.iterdir()}
    lot, number = random.Random(5), count()
    rounds = -(-LEAST_CALLS // len(events))
    calls = []
    for event in events * rounds:
        data = [good[id] for id in event["inputs"]] or [bad(lot, canary)]
        # Most arguments are replaced, and once in a while all of them, one too few or one too many.
        for place in range(len(data)):
            if lot.random() < 0.8 or place == 0:
                data[place] = bad(lot, canary)
        if lot.random() < 0.05:
            data = lot.choice([data[1:], [*data, bad(lot, canary)]])
        calls.append((event, data, f"hostile{next(number)}"))
    lot.shuffle(calls)
    capfd.readouterr()
    with ThreadPoolExecutor(6) as crowd:
        answers = list(crowd.map(lambda call: called(http, *call), calls))
    assert len(answers) >= LEAST_CALLS
    for (event, data, _), said in zip(calls, answers, strict=True):
        what = f"{event['api_name']}({str(data)[:400]})"
        assert SECRET not in said and "root:x:" not in said and "Traceback" not in said, what
        # On the page what a visitor sends stands as text only; errors and scripts' answers are JSON.
        told = '"success":false' in said or said.startswith('{"error"') or event["api_visibility"] == "public"
        assert told or "<img src=x onerror" not in said, what
        for path in re.findall(r'"path":\s*"([^"]+)"', said):
            assert SECRET not in http.get(f"/gradio_api/file={path}").text, what
    assert list(bugs(capfd.readouterr().err)) == []
    assert {path: path.read_bytes() for path in Path(canary[0]).parent.iterdir()} == outside
    assert open_pool(pool).verify() == []
    assert http.get("/").status_code == 200
    served = next(event for event in events if event["api_name"] == "score")
    alive = called(http, served, [pool.parent.name, None, "negmerge", 0.5, None, "live", "keep"], "friend")
    assert '"kept_fraction"' in alive


@pytest.mark.parametrize("number", [-1, 10**9, "0", "x", None, 1.5, [0], {}, True])
def test_a_handler_that_is_not_there(app, number):
    _, http, _ = app
    body = sent({"data": [], "fn_index": number, "session_hash": "x"})
    for route in ("run/predict", "queue/join", "api/predict", "call/nothing", "call/../score"):
        answer = post(http, f"/gradio_api/{route}", body)
        assert "Traceback" not in answer.text and SECRET not in answer.text
    assert http.get("/").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"data": 5}', b"\xff\xfe", b'{"data":' + b"[" * 3000])
def test_a_body_that_is_none(app, body):
    _, http, _ = app
    for route in ("run/predict", "queue/join", "call/score", "upload", "cancel", "reset", "component_server"):
        answer = post(http, f"/gradio_api/{route}", body)
        assert answer.status_code >= 400 or answer.text in ("null", "true", '{"success":true}', '{"success":false}'), (
            route
        )
        assert "Traceback" not in answer.text
    assert http.get("/").status_code == 200


def posted(router):
    """Every path of the server that takes a POST, its parameters filled in."""
    for route in router.routes:
        if hasattr(route, "original_router"):
            yield from posted(route.original_router)
        elif "POST" in (getattr(route, "methods", None) or ()):
            yield re.sub(r"\{[^}]*\}", "x", route.path)


@pytest.mark.slow
@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1:1", "http://localhost.evil.example"])
def test_pages_of_other_sites_are_refused_everywhere(app, origin):
    blocks, http, _ = app
    paths = sorted(set(posted(blocks.app)))
    assert {"/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/run/x"} <= set(paths)
    for path in (*paths, "/", "/config"):
        for headers in ({"origin": origin}, {"origin": origin, "x-forwarded-host": origin.partition("//")[2]}):
            answer = http.request("POST" if path in paths else "GET", path, headers=headers, content=b"{}")
            assert answer.status_code == 403 and "another site" in answer.text, path


def test_the_own_page_is_answered_under_every_name_of_this_machine(app):
    _, http, _ = app
    port = http.base_url.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert http.get("/config", headers={"host": host, "origin": f"http://{host}"}).status_code == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        assert http.get("/config", headers={"host": host, "origin": f"http://{host}"}).status_code == 403


NAMES = [
    "../../../evil.png",
    "/etc/cron.d/evil",
    "a\r\nSet-Cookie: stolen=1.png",
    "..",
    "con\0.png",
    "a" * 5000,
    "a/b/../../c.png",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_file_name_leads_nowhere_and_adds_no_header(app, name, canary):
    _, http, _ = app
    before = set(Path(canary[0]).parent.iterdir())
    body = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="'
        + name.encode().replace(b"\r\n", b"%0D%0A")
        + b'"\r\nContent-Type: image/png\r\n\r\nnot an image\r\n--b--\r\n'
    )
    answer = http.post("/gradio_api/upload", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert "Traceback" not in answer.text
    if answer.status_code == 200:
        cache = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
        for path in answer.json():
            assert Path(path).resolve().is_relative_to(cache) and "\n" not in path
            back = http.get(f"/gradio_api/file={path}")
            assert "set-cookie" not in back.headers and "\n" not in str(back.headers)
    told = http.get(f"/gradio_api/file={'%0d%0aSet-Cookie:%20stolen=1'}")
    assert "set-cookie" not in told.headers
    assert set(Path(canary[0]).parent.iterdir()) == before and not Path("/etc/cron.d/evil").exists()
