"""Where the app listens and who may look: every wrong address is one sentence with the remedy."""

import os
import socket
import stat
from pathlib import Path

import pytest

from negmerge_kit.errors import ParameterError
from negmerge_kit.web.serving import check_address, read_auth


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


def test_files_of_the_app_lie_in_a_private_folder(address):
    folder = Path(os.environ["GRADIO_TEMP_DIR"]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_start_on_a_taken_port_is_refused_before_anything_is_loaded(tmp_path, address):
    from negmerge_kit.web import serve

    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(ParameterError, match=f"port {port} is in use"):
        serve(tmp_path / "no-pool-here", port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_host_is_served_when_that_is_said(host):
    from .conftest import free_port

    check_address(host, free_port(), guarded=True)
    with pytest.raises(ParameterError, match="--public"):
        check_address(host, free_port(), guarded=False)


def test_a_public_app_fine_tunes_nothing(tiny_pool):
    from negmerge_kit.checkpoints.pool import open_pool
    from negmerge_kit.sweeps.background import BackgroundSweep
    from negmerge_kit.web import serve

    pool = open_pool(tiny_pool)
    with pytest.raises(ParameterError, match="fine-tunes nothing"):
        serve(pool, sweep=BackgroundSweep(pool, []), public=True)


def test_the_command_serves_a_public_pool_read_only(tiny_pool, monkeypatch):
    from negmerge_kit import web
    from negmerge_kit.cli import main

    asked = {}
    monkeypatch.setattr(web, "serve", lambda pool, **options: asked.update(options), raising=False)
    assert main(["demo", "--pool", str(tiny_pool), "--host", "0.0.0.0", "--public"]) == 0
    assert asked["public"] is True and asked["sweep"] is None and asked["auth"] is None


def test_public_and_auth_exclude_each_other(tiny_pool, tmp_path, capsys):
    from negmerge_kit.cli import main

    assert main(["demo", "--pool", str(tiny_pool), "--public", "--auth", str(tmp_path / "people")]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_an_empty_embedded_pool_cannot_be_public(monkeypatch, capsys, tmp_path):
    from negmerge_kit.cli import main
    from negmerge_kit.sweeps import embedded

    class Empty:
        ids: tuple[str, ...] = ()

    monkeypatch.setattr(embedded, "start_pool", lambda scene: (Empty(), []))
    assert main(["demo", "--public"]) == 2
    assert "negmerge pool build tiny" in capsys.readouterr().err
