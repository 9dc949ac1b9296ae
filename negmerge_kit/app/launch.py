"""Serving the page: which address, who may look, and where its files lie."""

from __future__ import annotations

import atexit
import gc
import socket
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from negmerge_kit.app.api import Endpoints, publish
from negmerge_kit.app.finetune_runs import FinetuneRuns
from negmerge_kit.app.gate import check_root_path, is_loopback, networks
from negmerge_kit.app.pages import agreement_layout, audit_layout, compare_layout, finetune_layout, unlearn_events
from negmerge_kit.app.pages.agreement import AgreementEvents
from negmerge_kit.app.pages.audit import AuditEvents
from negmerge_kit.app.pages.compare import CompareEvents
from negmerge_kit.app.pages.finetune import FinetunePage
from negmerge_kit.app.pages.unlearn_layout import lay_out, lay_out_head
from negmerge_kit.app.plans import Plans
from negmerge_kit.app.pools import Pools, find_pools
from negmerge_kit.app.private import AppFolder
from negmerge_kit.app.server import Server
from negmerge_kit.app.templates import render
from negmerge_kit.app.uploads import LARGEST_FILE, Uploads
from negmerge_kit.app.url_state import remember_tab
from negmerge_kit.data.decoded_cache import cache_folder
from negmerge_kit.errors import ParameterError
from negmerge_kit.pools.pool import Pool
from negmerge_kit.sweeps.background import BackgroundSweep

SWEEP_SECONDS = 1.0
"""How long an app that ends waits for the step that its sweep is at; nothing is lost where that takes longer."""


def serve(
    pools: Pool | str | Path | Sequence[Pool | str | Path],
    *,
    sweep: BackgroundSweep | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | Path | None = None,
    public: bool = False,
    root_path: str = "",
    forwarded_allow_ips: str | None = None,
    block: bool = True,
    ready: Callable[[str], None] | None = None,
) -> gr.Blocks:
    """Serve the app on one pool or several until Ctrl-C, fine-tuning what the first lacks meanwhile.

    Args:
        pools: open pools, their folders, or folders of pools; they may have no finished candidate yet.
        sweep: fine-tunes what the first pool lacks; started once the page is up, stopped when it goes down.
        auth: file with one `user:password` a line.
        public: let anybody in who reaches the host; pools are then read only, and nothing is fine-tuned.
        root_path: the path, or the whole address with https://, under which a reverse proxy shows the app.
        forwarded_allow_ips: addresses, with commas between them, of the reverse proxies whose X-Forwarded-For, -Proto
            and -Host are believed; nobody else's are.
        ready: called with the page's address once it answers.
        block: False returns at once, with the server in a thread; `close()` of the returned Blocks ends it.

    Ctrl-C (KeyboardInterrupt) goes on to the caller, once visitors have heard that the app ends and it has tidied up.

    Raises:
        ParameterError: if the port is in use, root_path or a proxy's address is none, the host is not this machine's
            own and neither auth nor public is given, or a sweep is to fill a public pool.
        PoolError: if a pool cannot be opened.
    """
    people = read_auth(auth) if auth is not None else None
    if public and sweep:
        raise ParameterError("a public app fine-tunes nothing: build the pool before, and serve it with --pool.")
    trusted = networks(forwarded_allow_ips) if forwarded_allow_ips is not None else []
    check_root_path(root_path)
    check_address(host, port, guarded=bool(people) or public)
    listed = [pools] if isinstance(pools, (Pool, str, Path)) else list(pools)
    found = [pool for given in listed for pool in ([given] if isinstance(given, Pool) else find_pools(given))]
    folder = AppFolder()
    atexit.register(folder.remove)
    served = Pools(found, made=folder.path / "made", device=device, read_only=public, sweep=sweep)
    uploads = Uploads(folder.cache, folder.path / "checking", allowed=not public)
    blocks = build(served, FinetuneRuns(served, Plans(cache_folder() / "pools"), uploads, device=device))

    def end() -> None:
        served.close()
        if sweep:
            sweep.stop(SWEEP_SECONDS)
        folder.remove()

    server = Server(
        blocks,
        people=people,
        public=public,
        root_path=root_path,
        trusted=trusted,
        on_close=end,
        theme=_theme(),
        css=_file("style.css"),
        head=f"<script>{_file('page.js')}</script>",
        footer_links=[],
        ssr_mode=False,
        run_history=False,
        max_file_size="1mb" if public else LARGEST_FILE,
        allowed_paths=[],
        enable_monitoring=False,
        mcp_server=False,
    )
    server.start(host, port)
    if sweep:
        sweep.start()
    if block:
        # What is loaded by now stays as long as the process, which is the app's own: without this the collector looks
        # through all of it again and again, between answers.
        gc.collect()
        gc.freeze()
    if ready:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    if block:
        try:
            server.wait()
        finally:
            served.close()  # while the server still answers those who wait for a job
            server.finish()
            blocks.close(verbose=False)
    return blocks


def build(pools: Pools, tunes: FinetuneRuns) -> gr.Blocks:
    """The pages and the endpoints over what is served, not served yet; the first pool is opened."""
    tunes.serve_finished()
    first = pools.open(pools.ids[0])
    growing = first.sweep is not None
    with gr.Blocks(title="negmerge-kit", fill_width=True, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        head = lay_out_head(pools.ids, render("shared.device_chip", first.device))
        with gr.Tabs(selected="unlearn", elem_id="nm-pages") as tabs:
            with gr.Tab("Unlearn", id="unlearn") as unlearn:
                controls, shown = lay_out(first.unlearn, head, growing=growing)
            with gr.Tab("Compare", id="compare") as compare:
                comparing = CompareEvents(lambda pool: pools.open(pool).compare, pools.jobs, pools.visitors)
                compare_layout.lay_out(comparing, controls, tabs, compare, shown.number)
            with gr.Tab("Agreement", id="agreement") as agreement:
                agreeing = AgreementEvents(lambda pool: pools.open(pool).agreement, pools.jobs)
                agreement_layout.lay_out(agreeing, controls, agreement, shown.number)
            with gr.Tab("Fine-tune", id="finetune") as finetune:
                finetune_layout.lay_out(FinetunePage(tunes), finetune)
            with gr.Tab("Audit", id="audit") as audit:
                auditing = AuditEvents(lambda pool: pools.open(pool).audit, pools.jobs)
                audit_layout.lay_out(auditing, pools.files, controls, audit, shown.number)
        unlearn_events.connect(blocks, pools, controls, shown, tabs)
        for tab in (unlearn, compare, agreement, finetune, audit):
            tab.select(None, None, None, js=remember_tab(str(tab.id)), api_visibility="private")
        publish(Endpoints(pools))
    blocks.queue(default_concurrency_limit=2, max_size=64)
    return blocks


def check_address(host: str, port: int, *, guarded: bool) -> None:
    """Refuse an address that is taken, or that strangers could reach.

    Raises:
        ParameterError: with the remedy.
    """
    if not guarded and not is_loopback(host):
        raise ParameterError(
            f"host {host} can be reached from other machines: add --auth FILE with user:password lines, "
            "or --public to let anybody in (the pool is then read only); or keep the default 127.0.0.1."
        )
    if not 1 <= port <= 65535:
        raise ParameterError(f"port is {port}: give a number from 1 to 65535.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise ParameterError(f"host {host} is not known: give an address of this machine, such as 127.0.0.1.") from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise ParameterError(f"port {port} is reserved for the system: choose another with --port 7861.") from None
        except OSError as error:
            raise ParameterError(
                f"port {port} is in use or {host} is not this machine's ({error.strerror}): "
                f"choose another with --port {port + 1 if port < 65535 else 7861}."
            ) from None


def read_auth(file: str | Path) -> list[tuple[str, str]]:
    """The (user, password) pairs of a file with one `user:password` a line; blank lines and # lines are left out.

    Raises:
        ParameterError: if the file cannot be read, or a line is not of that form: its number is named, not its text.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"cannot read {file} ({error}): give a text file with one user:password a line.") from None
    people = []
    for number, text in enumerate(lines, 1):
        if not text.strip() or text.startswith("#"):
            continue
        user, colon, password = text.partition(":")
        if not (user and colon and password):
            raise ParameterError(f"line {number} of {file} is not user:password: write one pair a line.")
        people.append((user, password))
    if not people:
        raise ParameterError(f"{file} names nobody: write at least one user:password line.")
    return people


def _file(name: str) -> str:
    return (resources.files("negmerge_kit.app") / name).read_text(encoding="utf-8")


def _theme() -> Any:
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono)
