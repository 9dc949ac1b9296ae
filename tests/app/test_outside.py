"""No request leaves the machine: the app in a process of its own, where whatever calls out is recorded and refused."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from benchmarks.bench_visitor import Visitor

from .conftest import free_port

WAIT = 120
# Python tells its audit hooks of each of these before it does it, whichever library asks.
WATCH = """
import ipaddress, os, sys

CALLS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0,
         "socket.gethostbyname": 0, "socket.gethostbyaddr": 0, "socket.getnameinfo": 0}

def here(host):
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

def watch(event, arguments):
    if event in CALLS:
        to = arguments[CALLS[event]]
        host = to[0] if isinstance(to, tuple) else to
        host = host.decode() if isinstance(host, bytes) else host
        if isinstance(host, str) and host.startswith("/"):  # a socket that is a file
            return
        if not here(host):
            with open(os.environ["CALLED_OUT"], "a") as record:
                print(event, host, file=record)
            raise OSError(f"{event}: {host} is not this machine")

sys.addaudithook(watch)
"""
QUIETED = ("HF_HUB_OFFLINE", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")


@pytest.fixture
def watched(tmp_path):
    """A user's environment, in which nothing is told to keep quiet and no proxy hides where a call goes; the record."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    record = tmp_path / "called-out"
    plain = {
        name: value for name, value in os.environ.items() if name not in QUIETED and not name.lower().endswith("_proxy")
    }
    return plain | {"PYTHONPATH": str(tmp_path / "watch"), "CALLED_OUT": str(record), "OMP_NUM_THREADS": "1"}, record


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("socket.create_connection(('192.0.2.1', 9))", "socket.getaddrinfo 192.0.2.1\n"),
        ("socket.socket().connect(('192.0.2.1', 9))", "socket.connect 192.0.2.1\n"),
        ("socket.getaddrinfo('example.invalid', 443)", "socket.getaddrinfo example.invalid\n"),
        ("socket.create_server(('127.0.0.1', 0)).getsockname()", None),
    ],
)
def test_the_watch_sees_what_calls_out(watched, code, told):
    environment, record = watched
    done = subprocess.run([sys.executable, "-c", f"import socket; {code}"], env=environment, capture_output=True)
    assert (done.returncode == 0) == (told is None) and (record.read_text() if told else None) == told


def answers(address):
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


async def visit(address, pool):
    """The page with all that it asks for by itself, and a script's call."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        visitor = Visitor(http)
        await visitor.arrive()
        score = {"data": [pool, None, "negmerge", 0.5, None, "live", "keep"]}
        answer = await http.post("/gradio_api/run/score", json=score)
        await visitor.leave()
        return answer.json()["data"][0]


@pytest.mark.slow
def test_no_request_leaves_the_machine(watched, tiny_pool, tmp_path):
    environment, record = watched
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "negmerge_kit.cli", "demo", "--pool", str(tiny_pool), "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        env=environment | {"NEGMERGE_CACHE": str(tmp_path / "own")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as app:
        try:
            until = time.monotonic() + WAIT
            while not answers(address):
                assert app.poll() is None and time.monotonic() < until, "it never answered"
                time.sleep(0.2)
            scored = asyncio.run(visit(address, tiny_pool.name))
        finally:
            app.terminate()
            said, _ = app.communicate(timeout=60)
    assert scored["kept_fraction"] > 0 and app.returncode == 128 + signal.SIGTERM, said
    assert not record.exists(), record.read_text()
