"""Ctrl-C and SIGTERM: one sentence, the same tidy-up, 130 and 143."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from negmerge_kit.app import templates
from negmerge_kit.app.jobs import CLOSED
from negmerge_kit.cli import main, pool
from negmerge_kit.cli.signals import GRACE
from negmerge_kit.pools.pool import open_pool
from tests.app.conftest import free_port


def begun(*words, code=None, environment=None):
    command = [sys.executable, *(["-c", code] if code else ["-m", "negmerge_kit.cli"]), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(there, run):
    until = time.monotonic() + 180
    while not there():
        assert run.poll() is None and time.monotonic() < until, run.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_verb_that_is_stopped_says_so_and_signals_are_as_before(monkeypatch, capsys, number, code):
    def long_work(words):
        signal.raise_signal(number)
        time.sleep(60)

    before = {signal.SIGINT: signal.default_int_handler}.get(number, signal.SIG_DFL)
    found = signal.signal(number, before)  # a shell's background jobs start with Ctrl-C ignored
    monkeypatch.setattr(pool, "pool", long_work)
    assert main(["pool"]) == code
    assert capsys.readouterr().err == "negmerge pool: stopped; what was finished is kept.\n"
    assert signal.signal(number, found) is before


@pytest.mark.slow
def test_a_forked_worker_ends_by_the_signal_itself(monkeypatch):
    def work(words):
        hears, tells = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.write(tells, b"!")
                time.sleep(60)
            finally:
                os._exit(0)
        os.read(hears, 1)  # Python forgets a signal that comes while it is still forking
        os.kill(child, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    monkeypatch.setattr(pool, "pool", work)
    assert main(["pool"]) == -signal.SIGTERM


# What each does tells on stdout when it is at it. The last two would go on for ever.
IN_TRAINING = """
from negmerge_kit.training import loop
steps, gradient = [], loop._gradient
def told(*given):
    steps.append(1)
    if len(steps) == 3:
        print("at work", flush=True)
    return gradient(*given)
loop._gradient = told
"""
DEAF = """
import time
from negmerge_kit.cli import pool
def hang(words):
    print("at work", flush=True)
    while True:
        try:
            time.sleep(3600)
        except KeyboardInterrupt:
            pass
pool.pool = hang
"""
IN_ONE_LONG_CALL = """
import ctypes
from negmerge_kit.cli import pool
def hang(words):
    lock, system = ctypes.create_string_buffer(256), ctypes.CDLL(None)
    system.pthread_mutex_init(lock, None)
    system.pthread_mutex_lock(lock)
    print("at work", flush=True)
    system.pthread_mutex_lock(lock)  # no signal ends this call, and Python's own handlers wait until it returns
pool.pool = hang
"""


@pytest.mark.slow
@pytest.mark.parametrize("work", [IN_TRAINING, DEAF, IN_ONE_LONG_CALL])
def test_sigterm_ends_a_verb_within_five_seconds_whatever_it_is_at(tmp_path, work):
    words = ["pool", "build", "tiny-classifier", "--out", str(tmp_path / "pool"), "--device", "cpu"]
    code = f"{work}\nfrom negmerge_kit.cli import run\nrun({words!r})"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as verb:
        try:
            assert verb.stdout.readline() == "at work\n", verb.stderr.read()
            verb.terminate()
            # It is `GRACE` that bounds it; a clock would measure what else this machine is doing.
            _, said = verb.communicate(timeout=60)
        finally:
            verb.kill()
    said = [line for line in said.splitlines() if line and not line.startswith("base of tiny-classifier [")]  # the bar
    assert (verb.returncode, said) == (143, ["negmerge pool: stopped; what was finished is kept."])
    assert GRACE < 5 and not (tmp_path / "pool").exists()


@pytest.mark.slow
def test_a_build_that_gets_sigterm_tidies_up_and_goes_on(tmp_path, capsys):
    pool = tmp_path / "pool"
    with begun("pool", "build", "tiny", "--out", pool, "--device", "cpu") as run:
        wait_for(lambda: (pool / "pool.json").exists() and open_pool(pool).ids, run)
        run.terminate()
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 143 and "Traceback" not in said
    assert said.endswith("negmerge pool: stopped; what was finished is kept.\n")
    assert not list(pool.rglob("*.part"))
    made = open_pool(pool)
    assert 1 <= len(made.ids) < 8 and made.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_app_ends_at_once_and_leaves_no_folder(tiny_pool, tmp_path, number, code):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with begun("demo", "--pool", tiny_pool, "--port", free_port(), environment=environment) as run:
        try:
            assert "Ctrl-C ends it" in run.stdout.readline()
            run.send_signal(number)
            said, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    # Gradio's own answer to Ctrl-C would be another sentence, after it waited seconds for its server.
    assert run.returncode == code and said == "negmerge demo: stopped; what was finished is kept.\n"
    assert not list(tmp_path.glob("negmerge-app-*"))


COMPARING = """
import time
from negmerge_kit.app.pages import compare
def compare_rules(stand, *given, **named):
    print("at work", flush=True)
    while True:
        stand._job.tell()
        time.sleep(0.05)
compare.compare_rules = compare_rules
"""


def press(http, button, session):
    """Send what the page sends when a button of it is pressed."""
    page = http.get("/config").json()
    values = {part["id"]: part["props"].get("value") for part in page["components"]}
    (id,) = [part["id"] for part in page["components"] if part["props"].get("elem_id") == button]
    event = next(event for event in page["dependencies"] if [id, "click"] in event["targets"])
    body = {"data": [values[one] for one in event["inputs"]], "fn_index": event["id"], "session_hash": session}
    http.post("/gradio_api/queue/join", json=body).raise_for_status()


@pytest.mark.slow
def test_who_follows_a_job_in_the_app_reads_one_sentence_when_it_is_stopped(tiny_pool, tmp_path):
    port = str(free_port())
    words = ["demo", "--pool", str(tiny_pool), "--port", port, "--device", "cpu"]
    code = f"{COMPARING}\nfrom negmerge_kit.cli import run\nrun({words!r})"
    environment = {**os.environ, "NEGMERGE_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    with begun(code=code, environment=environment) as run:
        try:
            assert "Ctrl-C ends it" in run.stdout.readline()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                asked = {"data": [tiny_pool.name, "all", "all", 0.95, "auto", "keep"]}
                call = http.post("/gradio_api/call/compare", json=asked).json()["event_id"]
                assert run.stdout.readline() == "at work\n"
                press(http, "nm-compare", "me")
                with (
                    http.stream("GET", f"/gradio_api/call/compare/{call}") as by_script,
                    http.stream("GET", "/gradio_api/queue/data?session_hash=me") as on_page,
                ):
                    run.terminate()
                    script, page = by_script.read().decode(), on_page.read().decode()
            said, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    assert script.startswith("event: error\n") and json.loads(script.partition("data: ")[2])["error"] == CLOSED
    told = templates.notice(CLOSED, "hint").replace('"', r"\"")
    assert told in page and page.count("process_completed") == 1 and "unexpected" not in page
    assert (run.returncode, said) == (143, "negmerge demo: stopped; what was finished is kept.\n")
    assert not list(tmp_path.glob("negmerge-app-*"))
