"""Uploads over HTTP: what the route itself takes, and that a public app has no door for them at all."""

import httpx
import pytest

from negmerge_kit.app.finetune_runs import FinetuneRuns

from .conftest import free_port
from .drawings import drawing


@pytest.fixture(scope="module")
def public(tiny_pool):
    """A served public app, over HTTP."""
    from negmerge_kit.app import serve

    port = free_port()
    blocks = serve(tiny_pool, device="cpu", port=port, public=True, block=False)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/", timeout=60) as http:
        yield http
    blocks.close(verbose=False)


@pytest.mark.parametrize("route", ["gradio_api/upload", "upload", "gradio_api/upload/", "gradio_api//upload"])
def test_a_public_app_refuses_uploads_at_the_route(public, route):
    answer = public.post(route, files={"files": ("a.png", drawing("vertical_stripes", 1))})
    assert answer.status_code in (403, 404, 405) and "/a.png" not in answer.text


def test_a_public_app_has_nothing_to_send_or_to_start(public):
    config = public.get("config").json()
    parts = config["components"]
    kinds = [part["type"] for part in parts]
    assert "file" not in kinds and "dataframe" not in kinds and kinds.count("tabitem") == 5
    told = [part["props"].get("value") for part in parts if part["props"].get("elem_id") == "nm-no-finetune"]
    assert len(told) == 1 and "public" in told[0] and "negmerge demo" in told[0]


def test_a_public_app_serves_none_of_the_pools_that_were_made_here(public, monkeypatch):
    served = []
    monkeypatch.setattr(FinetuneRuns, "open", lambda tunes, id: served.append(id))
    uploads = type("Uploads", (), {"allowed": False})()
    FinetuneRuns(None, None, uploads).serve_finished()
    assert served == []


@pytest.mark.parametrize(
    "name", ['a"\r\nSet-Cookie: x=1; b=".png', "../../../../tmp/evil.png", "a\0b.png", "con.png", "x" * 3000 + ".png"]
)
def test_a_name_sent_over_http_is_a_name_and_no_header_or_place(address, name):
    answer = httpx.post(f"{address}gradio_api/upload", files={"files": (name, b"x")}, timeout=60)
    assert "x=1" not in answer.headers.get("set-cookie", "")
    if answer.status_code == 200:
        (path,) = answer.json()
        assert "/cache/" in path and ".." not in path and "\n" not in path and len(path) < 400
