"""`negmerge demo`: the app on the embedded scene, or on a pool of one's own."""

from __future__ import annotations

import argparse
import atexit
import ctypes
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from negmerge_kit.cli.flags import Parser
from negmerge_kit.cli.stopping import STOPPED, heeding

_ended: list[int] = []
"""The exit code of a process that was told to end."""


def demo(arguments: list[str]) -> int:
    """Serve the page; candidates that the pool lacks are fine-tuned while it is up."""
    parser = Parser("demo", "Serve the app; it fine-tunes the embedded scene's candidates at the first start.")
    parser.add_argument(
        "--pool", type=Path, metavar="DIR", action="append",
        help="a pool of your own, or a folder of pools; may be given again (default: the embedded scene)",
    )  # fmt: skip
    parser.add_argument("--forget", metavar="FAMILY", help="the embedded family to forget (default: digits)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than loopback need --auth or --public"
    )
    parser.add_argument("--port", type=int, default=7860)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--auth", type=Path, metavar="FILE", help="file with one user:password a line")
    who.add_argument("--public", action="store_true", help="let anybody in: the pool is read only, nothing is trained")
    options = parser.parse_args(arguments)
    if options.pool and options.forget:
        parser.error("--forget is for the embedded scene: a pool of your own says itself what it forgets")
    atexit.register(_leave)  # before all others, so that it runs after them
    _share_memory()
    # Ctrl-C, too: gradio would take it, and wait seconds for browsers that keep their connection open.
    with heeding(signal.SIGINT, signal.SIGTERM, by=_end):
        return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    # The page takes seconds to import: fetch it while the pool is opened.
    threading.Thread(target=import_module, args=("negmerge_kit.web.serving",), daemon=True).start()

    from negmerge_kit.checkpoints.pool import Pool
    from negmerge_kit.cli.progress import watch
    from negmerge_kit.errors import PoolError
    from negmerge_kit.lab.training.recipe import grid
    from negmerge_kit.sweeps.background import BackgroundSweep
    from negmerge_kit.sweeps.embedded import start_pool
    from negmerge_kit.web import serve

    sweep = None
    pools: list[Pool | Path] = options.pool or []
    if not pools:
        pool, damaged = start_pool(f"tiny:{options.forget or 'digits'}")
        for sentence in damaged:
            print(f"negmerge demo: {sentence}", file=sys.stderr)
        if options.public and not pool.ids:
            raise PoolError(
                "the embedded pool is empty, and a public app trains nothing: run `negmerge pool build tiny`."
            )
        if not options.public:
            sweep = BackgroundSweep(pool, grid("tiny"), device=options.device)
        pools = [pool]

    def ready(address: str) -> None:
        print(f"negmerge is at {address} (Ctrl-C ends it)", flush=True)
        if sweep:
            watch(sweep, f"fine-tuning {pool.scene['name']}")

    serve(
        pools,
        sweep=sweep,
        device=options.device,
        host=options.host,
        port=options.port,
        auth=options.auth,
        public=options.public,
        ready=ready,
    )
    return 0


def _end(number: int, frame: object) -> NoReturn:
    """End by way of the exit handlers: the private temporary folder goes, finished candidates stay."""
    _ended.append(128 + number)
    raise SystemExit(_ended[0])


def _leave() -> None:
    """Leave without taking the interpreter down: a thread that is within torch just then would abort the process."""
    if _ended:
        print(f"\nnegmerge demo: {STOPPED}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ended[0])


def _share_memory() -> None:
    """Let all threads take memory from two arenas: by default each keeps its own, and what it freed, for good.

    Twenty visitors at once left 60 MB behind whenever they came; so it stays where it was.
    """
    M_ARENA_MAX = -8  # glibc's malloc.h; other C libraries have no such setting, and mallopt of theirs does nothing
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)
