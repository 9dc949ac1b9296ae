"""What stands in front of gradio: small bodies, well-formed hosts, slow guesses, named proxies, a private folder."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
from starlette.responses import JSONResponse

from negmerge_kit.app import private
from negmerge_kit.app.gate import (
    LARGEST_BODY,
    LONGEST_DELAY,
    MALFORMED,
    MOST_SENDERS,
    TOO_LARGE,
    Forwarded,
    OwnPagesOnly,
    SlowGuesses,
    SmallBodies,
    check_root_path,
    networks,
)
from negmerge_kit.app.private import PrivateFolder
from negmerge_kit.errors import ParameterError

from .conftest import free_port


class Inner:
    """An app that reads the body and says what it saw."""

    def __init__(self, status=200):
        self.seen, self.status = [], status

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        host = dict(scope["headers"]).get(b"host", b"").decode()
        self.seen.append((scope["path"], len(body), scope["scheme"], scope["client"], host, dict(scope["headers"])))
        await JSONResponse({"bytes": len(body)}, status_code=self.status)(scope, receive, send)


def asked(app, method="GET", path="/", *, client=("192.0.2.9", 1), **given):
    async def ask():
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as http:
            return await http.request(method, path, **given)

    return asyncio.run(ask())


class Pieces(httpx.AsyncByteStream):
    """A body that is sent in pieces, without its length, and counts what was taken of it."""

    def __init__(self, count, size=1 << 16):
        self.left, self.size, self.sent = count, size, 0

    async def __aiter__(self):
        while self.left:
            self.left, self.sent = self.left - 1, self.sent + self.size
            yield b"x" * self.size


@pytest.mark.parametrize(
    "path", ["/", "/login", "/gradio_api/queue/join", "/gradio_api/upload/x", "/x/upload", "/upload"]
)
def test_a_large_body_is_refused_while_it_streams_and_never_reaches_the_app(path):
    inner, body = Inner(), Pieces(1000)
    answer = asked(SmallBodies(inner), "POST", path, content=body)
    assert answer.status_code == 413 and answer.json() == {"detail": TOO_LARGE} and inner.seen == []
    assert body.sent <= LARGEST_BODY + 2 * body.size


def test_an_announced_length_is_enough_to_refuse_and_none_is_believed():
    inner = Inner()
    answer = asked(SmallBodies(inner), "POST", "/", content=b"x", headers={"content-length": str(LARGEST_BODY + 1)})
    assert answer.status_code == 413 and inner.seen == []
    body = Pieces(1000)
    answer = asked(SmallBodies(inner), "POST", "/", content=body, headers={"content-length": "5"})
    assert answer.status_code == 413 and inner.seen == []


def test_small_bodies_and_uploads_arrive_whole():
    inner = Inner()
    assert asked(SmallBodies(inner), "POST", "/", content=Pieces(16)).json() == {"bytes": LARGEST_BODY}
    assert asked(SmallBodies(inner), "POST", "/gradio_api/upload", content=Pieces(40)).json() == {"bytes": 40 << 16}
    assert asked(SmallBodies(inner)).json() == {"bytes": 0}


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "[::1"},
        {"host": "a b"},
        {"host": "127.0.0.1:99999"},
        {"host": "127.0.0.1:x"},
        {"host": ""},
        {"host": "[::1]x"},
        {"host": "user@127.0.0.1"},
        {"host": "127.0.0.1/x"},
        {"host": b"127.0.0.1\xff"},
        {"origin": "http://[::1"},
        {"origin": "http://"},
        {"origin": "x"},
        {"origin": "http://a:b:c"},
        {"origin": b"http://\xe9"},
        {"origin": "http://127.0.0.1:7860/page"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_malformed_host_or_origin_is_refused_before_anybody_reads_it(loopback, headers, method):
    inner = Inner()
    answer = asked(
        OwnPagesOnly(inner, loopback=loopback), method, headers=headers | {"access-control-request-method": "GET"}
    )
    assert answer.status_code == 403 and answer.text == MALFORMED and inner.seen == []


def test_two_hosts_or_two_origins_are_refused():
    for name, value in (("host", "127.0.0.1:7860"), ("origin", "http://127.0.0.1:7860")):
        answer = asked(OwnPagesOnly(Inner(), loopback=True), headers=[(name, value), (name, value)])
        assert answer.status_code == 403 and answer.text == MALFORMED


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def guess(app, client="192.0.2.9"):
    return asked(app, "POST", "/login", client=(client, 1))


def test_each_wrong_password_doubles_the_wait_of_its_sender_and_of_nobody_else():
    clock = Clock()
    slow = SlowGuesses(Inner(status=400), clock=clock, sleep=clock.sleep)
    for _ in range(12):
        assert guess(slow).status_code == 400
    assert clock.slept == [0.0, *(min(LONGEST_DELAY, 0.25 * 2**count) for count in range(11))]
    clock.slept.clear()
    guess(slow, "192.0.2.10"), guess(slow, "2001:db8::1"), guess(slow, "2001:db8::2")
    assert clock.slept == [0.0, 0.0, 0.25]  # one network of IPv6 is one sender
    asked(slow, "POST", "/gradio_api/run/x"), asked(slow, "GET", "/login")
    assert len(clock.slept) == 3


def test_a_correct_password_forgets_the_wrong_ones_and_a_form_that_is_none_counts_for_nothing():
    clock, inner = Clock(), Inner(status=400)
    slow = SlowGuesses(inner, clock=clock, sleep=clock.sleep)
    guess(slow), guess(slow)
    inner.status = 422
    guess(slow)
    inner.status = 200
    guess(slow)
    inner.status = 400
    guess(slow), guess(slow)
    assert clock.slept == [0.0, 0.25, 0.5, 0.0, 0.0, 0.25]


def test_one_login_at_a_time_is_held_and_the_others_are_refused_at_once():
    hold = asyncio.Event()

    async def main():
        async def sleep(seconds):
            await hold.wait()

        slow = SlowGuesses(Inner(status=400), sleep=sleep)
        transport = httpx.ASGITransport(slow, client=("192.0.2.9", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
            first = asyncio.create_task(http.post("/login"))
            await asyncio.sleep(0.01)
            others = [await http.post("/login") for _ in range(3)]
            free = await http.get("/")
            hold.set()
            return (await first).status_code, [answer.status_code for answer in others], free.status_code

    assert asyncio.run(main()) == (400, [429, 429, 429], 400)


def test_no_more_senders_are_remembered_than_fit():
    slow = SlowGuesses(Inner(status=400))
    for number in range(MOST_SENDERS + 50):
        slow._of(str(number))
    assert len(slow._senders) == MOST_SENDERS


SAID = {
    "x-forwarded-for": "198.51.100.7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "example.org",
    "x-gradio-server": "http://evil.example",
    "forwarded": "for=1.2.3.4",
    "host": "127.0.0.1:7860",
}


def test_a_named_proxy_is_believed_and_nobody_else():
    inner = Inner()
    asked(Forwarded(inner, networks("127.0.0.1,10.0.0.0/8")), headers=SAID, client=("10.1.2.3", 9))
    asked(Forwarded(inner, networks("127.0.0.1,10.0.0.0/8")), headers=SAID, client=("192.0.2.1", 9))
    asked(Forwarded(inner), headers=SAID, client=("127.0.0.1", 9))
    (_, _, *believed, _), *strangers = inner.seen
    assert believed == ["https", ("198.51.100.7", 0), "example.org"]
    for _, _, scheme, client, host, headers in strangers:
        assert scheme == "http" and client[1] == 9 and host == "127.0.0.1:7860"
        assert not [name for name in headers if name.startswith((b"x-", b"forwarded"))]
    assert b"x-gradio-server" not in inner.seen[0][-1]


@pytest.mark.parametrize("text", ["*", "", "proxy", "127.0.0.1,", "10.0.0.1/8", "1.2.3.4 5.6.7.8"])
def test_whose_word_is_taken_is_an_address(text):
    with pytest.raises(ParameterError, match="--forwarded-allow-ips"):
        networks(text)


@pytest.mark.parametrize(
    "text", ["negmerge", "ftp://example.org", "https://", "/a b", "/<script>", "https://a b/x", "//x\n"]
)
def test_a_root_path_is_a_path_or_an_address(text):
    with pytest.raises(ParameterError, match="--root-path"):
        check_root_path(text)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


HOLD = """
import sys
from negmerge_kit.app.private import PrivateFolder
folder = PrivateFolder()
(folder.path / "cache").mkdir()
(folder.path / "cache" / "a-secret-upload").write_text("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_a_killed_servers_folder_goes_at_the_next_start_and_a_live_ones_stays(place):
    environment = os.environ | {"TMPDIR": str(place)}
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    killed, alive = (Path(process.stdout.readline().strip()) for process in begun)
    begun[0].send_signal(signal.SIGKILL)
    begun[0].wait()
    assert killed.is_dir() and alive.is_dir()
    older = place / f"{private.PREFIX}made-by-an-older-version"
    older.mkdir()
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (place / f"{private.PREFIX}link").symlink_to(elsewhere)
    with PrivateFolder() as own:
        assert stat.S_IMODE(own.path.stat().st_mode) == 0o700
        assert not killed.exists()
        assert (alive / "cache" / "a-secret-upload").exists() and older.is_dir() and elsewhere.is_dir()
    assert not own.path.exists()
    begun[1].communicate("")
    assert begun[1].returncode == 0


@pytest.fixture(scope="module", params=["public", "auth"])
def door(request, tiny_pool, tmp_path_factory):
    """An app in which nobody is logged in: public, or one that asks for a password."""
    from negmerge_kit.app import serve

    people = tmp_path_factory.mktemp("auth") / "people"
    people.write_text("ann:secret\n")
    port = free_port()
    who = {"public": True} if request.param == "public" else {"auth": people}
    blocks = serve(tiny_pool, device="cpu", port=port, block=False, **who)
    yield f"http://127.0.0.1:{port}"
    blocks.close(verbose=False)


def in_pieces(count):
    for _ in range(count):
        yield b"x" * (1 << 16)


@pytest.mark.slow
def test_a_served_app_takes_no_large_body_and_no_malformed_header_without_a_word(door, capfd):
    with httpx.Client(base_url=door, timeout=60) as http:
        for path in ("/gradio_api/run/score", "/gradio_api/queue/join", "/login", "/", "/gradio_api/component_server"):
            assert http.post(path, content=in_pieces(100)).status_code == 413
            assert http.post(path, content=b"x" * (LARGEST_BODY + 1)).json()["detail"] == TOO_LARGE
        for headers in ({"host": "[::1"}, {"origin": "http://[::1"}, {"host": "a:99999", "origin": "null"}):
            for method in ("GET", "POST", "OPTIONS"):
                answer = http.request(method, "/config", headers=headers | {"access-control-request-method": "GET"})
                assert answer.status_code == 403 and answer.text == MALFORMED
        # From nobody that is named as a proxy: it changes no link, and breaks none.
        page = http.get("/", headers={"x-forwarded-host": "[evil.example", "x-gradio-server": "http://evil.example"})
        assert page.status_code == 200 and "evil.example" not in page.text
    assert capfd.readouterr().err == ""
