"""Where the app listens and who may look: every wrong address is one sentence with the remedy."""

import os
import re
import socket
import stat
from pathlib import Path

import httpx
import pytest

from negmerge_kit import app
from negmerge_kit.app.launch import check_address, read_auth
from negmerge_kit.app.private import AppFolder
from negmerge_kit.errors import ParameterError
from negmerge_kit.sweeps import pool_setup

from .conftest import DIALS, free_port


def test_a_port_in_use_names_the_port_and_another():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ParameterError, match=rf"port {port} is in use.*--port {port + 1}"):
            check_address("127.0.0.1", port, guarded=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.invalid"])
def test_strangers_are_kept_out_unless_there_is_a_password(host):
    with pytest.raises(ParameterError, match="--auth"):
        check_address(host, 7860, guarded=False)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none(port):
    with pytest.raises(ParameterError, match="port is"):
        check_address("127.0.0.1", port, guarded=False)


def test_auth_is_one_pair_a_line(tmp_path):
    file = tmp_path / "people"
    file.write_text("# the team\nann:secret:with colon\n\nbob:1\n")
    assert read_auth(file) == [("ann", "secret:with colon"), ("bob", "1")]


@pytest.mark.parametrize(("text", "says"), [("", "names nobody"), ("ann:1\nsecret", "line 2"), (":x", "line 1")])
def test_a_wrong_auth_file_is_told_without_its_secrets(tmp_path, text, says):
    file = tmp_path / "people"
    file.write_text(text)
    with pytest.raises(ParameterError, match=says) as error:
        read_auth(file)
    assert "secret" not in str(error.value)


def test_a_missing_auth_file(tmp_path):
    with pytest.raises(ParameterError, match="cannot read"):
        read_auth(tmp_path / "nobody")


@pytest.mark.slow
def test_files_of_the_app_lie_in_a_private_folder(address):
    folder = Path(os.environ["GRADIO_TEMP_DIR"]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_start_on_a_taken_port_is_refused_before_anything_is_loaded(tmp_path, address):
    from negmerge_kit.app import serve

    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ParameterError, match=f"port {port} is in use"):
        serve(tmp_path / "no-pool-here", port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_host_is_served_when_that_is_said(host):
    check_address(host, free_port(), guarded=True)
    with pytest.raises(ParameterError, match="--public"):
        check_address(host, free_port(), guarded=False)


def test_a_public_app_fine_tunes_nothing(tiny_pool):
    from negmerge_kit.app import serve
    from negmerge_kit.pools.pool import open_pool
    from negmerge_kit.sweeps.background import BackgroundSweep

    pool = open_pool(tiny_pool)
    with pytest.raises(ParameterError, match="fine-tunes nothing"):
        serve(pool, sweep=BackgroundSweep(pool, []), public=True)


def test_the_command_serves_a_public_pool_read_only(tiny_pool, monkeypatch):
    from negmerge_kit.cli import main

    asked = {}
    monkeypatch.setattr(app, "serve", lambda pool, **options: asked.update(options), raising=False)
    assert main(["demo", "--pool", str(tiny_pool), "--host", "0.0.0.0", "--public"]) == 0
    assert asked["public"] is True and asked["sweep"] is None and asked["auth"] is None


def test_the_command_hands_the_people_on(tiny_pool, tmp_path, monkeypatch):
    from negmerge_kit.cli import main

    asked = {}
    monkeypatch.setattr(app, "serve", lambda pool, **options: asked.update(options), raising=False)
    people = tmp_path / "people"
    assert main(["demo", "--pool", str(tiny_pool), "--host", "0.0.0.0", "--auth", str(people)]) == 0
    assert asked["auth"] == people and asked["public"] is False


def test_public_and_auth_exclude_each_other(tiny_pool, tmp_path, capsys):
    from negmerge_kit.cli import main

    assert main(["demo", "--pool", str(tiny_pool), "--public", "--auth", str(tmp_path / "people")]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_an_empty_embedded_pool_cannot_be_public(monkeypatch, capsys, tmp_path):
    from negmerge_kit.cli import main

    class Empty:
        ids: tuple[str, ...] = ()

    monkeypatch.setattr(pool_setup, "start_pool", lambda scene, on_wait: (Empty(), []))
    assert main(["demo", "--public"]) == 2
    assert "negmerge pool build tiny" in capsys.readouterr().err


@pytest.fixture(scope="module")
def guarded(tiny_pool, tmp_path_factory):
    """The address of an app that lets ann and bob in."""
    from negmerge_kit.app import serve

    people = tmp_path_factory.mktemp("auth") / "people"
    people.write_text("ann:secret:with colon\nbob:1\n")
    port = free_port()
    blocks = serve(tiny_pool, device="cpu", port=port, auth=people, block=False)
    yield f"http://127.0.0.1:{port}"
    blocks.close(verbose=False)


@pytest.fixture
def somebody(guarded):
    with httpx.Client(base_url=guarded, timeout=60) as http:
        yield http


def login(http, user, password):
    return http.post("/login", data={"username": user, "password": password})


def asked(http, number, pool, file):
    """The answers to all that holds data or does work: `number` is the handler of /score, `file` one of the app's."""
    score = {"data": [pool.name, None, "negmerge", 0.5, None, "live", "keep"]}
    hidden = score | {"fn_index": number, "session_hash": "somebody"}
    return {
        "config": http.get("/config"),
        "info": http.get("/gradio_api/info"),
        "run": http.post("/gradio_api/run/score", json=score),
        "call": http.post("/gradio_api/call/score", json=score),
        "predict": http.post("/gradio_api/run/predict", json=hidden),
        "join": http.post("/gradio_api/queue/join", json=hidden),
        "joined": http.get("/gradio_api/queue/data", params={"session_hash": "somebody"}),
        "upload": http.post("/gradio_api/upload", files={"files": ("a.txt", b"told to friends")}),
        "file": http.get(f"/gradio_api/file={file}"),
    }


@pytest.mark.slow
def test_without_the_password_nothing_is_answered_and_with_it_all_is(guarded, somebody, tiny_pool):
    from negmerge_kit.pools.pool import open_pool

    ids = open_pool(tiny_pool).ids
    with httpx.Client(base_url=guarded, timeout=60) as ann:
        assert login(ann, "ann", "secret:with colon").status_code == 200
        (file,) = ann.post("/gradio_api/upload", files={"files": ("a.txt", b"told to friends")}).json()
        events = ann.get("/config").json()["dependencies"]
        known = next(event["id"] for event in events if event["api_name"] == "score"), tiny_pool, file
        told = asked(ann, *known)
        assert {answer.status_code for answer in told.values()} == {200}
        assert told["run"].json()["data"][0]["kept_fraction"] > 0 and '"kept_fraction"' in told["joined"].text
        assert told["file"].content == b"told to friends"
        assert all(id in ann.get("/").text for id in ids)
    refused = {what: answer.status_code for what, answer in asked(somebody, *known).items()}
    assert refused == dict.fromkeys(told, 401)
    door = somebody.get("/")
    assert '"auth_required":true' in door.text and not any(id in door.text for id in ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", "1"), ("ann", "secret"), ("bob", "secret:with colon"), ("bob", ""), ("eve", "1"), ("", "")],
)
def test_a_wrong_password_opens_nothing(somebody, user, password):
    answer = login(somebody, user, password)
    assert answer.status_code in (400, 422) and not answer.cookies
    assert somebody.get("/config").status_code == 401


def test_two_apps_of_one_process_share_the_cache_that_ends_with_the_last_of_them(monkeypatch):
    """gradio reads GRADIO_TEMP_DIR whenever it gives a file: a second app must not take the first one's away."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "restored afterwards")
    monkeypatch.setattr(AppFolder, "_shared", None)
    monkeypatch.setattr(AppFolder, "_apps", 0)
    first, second = AppFolder(), AppFolder()
    first.cache.mkdir()
    assert first.cache == second.cache == Path(os.environ["GRADIO_TEMP_DIR"]) and first.path != second.path
    first.remove(), first.remove()
    assert second.cache.is_dir() and second.path.is_dir() and not first.path.exists()
    second.remove()
    assert not second.cache.parent.exists()
    third = AppFolder()
    assert third.cache != second.cache
    third.remove()


def record_of(address, pool, scale):
    """The record that the page's button gives, as its download."""
    from negmerge_kit.pools.pool import open_pool

    with httpx.Client(base_url=address, timeout=120) as http:
        config, name = http.get("config").json(), "unlearned.json"
        (button,) = (part["id"] for part in config["components"] if part["props"].get("value") == name)
        (event,) = (event for event in config["dependencies"] if [button, "click"] in event["targets"])
        data = [pool.name, list(open_pool(pool).ids), "negmerge", 0.95, scale, *DIALS]
        http.post("gradio_api/queue/join", json={"data": data, "fn_index": event["id"], "session_hash": "me"})
        news = http.get("gradio_api/queue/data", params={"session_hash": "me"}).text
        found = re.search(rf'"path":\s*"([^"]+{name})"', news)
        assert found, news[-1000:]
        return http.get(f"gradio_api/file={found[1]}").json()


@pytest.mark.slow
def test_an_app_gives_its_files_though_another_one_was_served_after_it_and_closed(tiny_pool, address):
    from negmerge_kit.app import serve

    port = free_port()
    other = serve(tiny_pool, device="cpu", port=port, block=False)
    try:
        assert record_of(address, tiny_pool, 0.31)["scale"] == 0.31
        assert record_of(f"http://127.0.0.1:{port}/", tiny_pool, 0.32)["scale"] == 0.32
    finally:
        other.close(verbose=False)
    assert record_of(address, tiny_pool, 0.33)["scale"] == 0.33
