"""Ctrl-C and SIGTERM: one sentence, the same tidy-up, 130 and 143."""

import os
import signal
import subprocess
import sys
import time

import pytest

from negmerge_kit.checkpoints.pool import open_pool
from negmerge_kit.cli import main, pools
from tests.web.conftest import free_port


def begun(*words, environment=None):
    command = [sys.executable, "-m", "negmerge_kit.cli", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(there, run):
    until = time.monotonic() + 180
    while not there():
        assert run.poll() is None and time.monotonic() < until, run.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_verb_that_is_stopped_says_so_and_signals_are_as_before(monkeypatch, capsys, number, code):
    def long_work(words):
        signal.raise_signal(number)
        time.sleep(60)

    before = {signal.SIGINT: signal.default_int_handler}.get(number, signal.SIG_DFL)
    found = signal.signal(number, before)  # a shell's background jobs start with Ctrl-C ignored
    monkeypatch.setattr(pools, "pool", long_work)
    assert main(["pool"]) == code
    assert capsys.readouterr().err == "negmerge pool: stopped; what was finished is kept.\n"
    assert signal.signal(number, found) is before


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

    monkeypatch.setattr(pools, "pool", work)
    assert main(["pool"]) == -signal.SIGTERM


def test_a_build_that_gets_sigterm_tidies_up_and_goes_on(tmp_path, capsys):
    pool = tmp_path / "pool"
    with begun("pool", "build", "tiny", "--out", pool, "--device", "cpu") as run:
        wait_for(lambda: (pool / "pool.json").exists() and open_pool(pool).ids, run)
        run.terminate()
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 143 and "Traceback" not in said
    assert said.endswith("negmerge pool: stopped; what was finished is kept.\n")
    assert not list(pool.rglob("*.part")) and not list(pool.glob(".sentinel*"))
    made = open_pool(pool)
    assert 1 <= len(made.ids) < 8 and made.verify() == []


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
