"""`negmerge demo`: the app on the embedded scene, or on a pool of one's own."""

from __future__ import annotations

import argparse
import sys
import threading
from importlib import import_module
from pathlib import Path

from negmerge_kit.cli.options import Parser


def demo(arguments: list[str]) -> int:
    """Serve the page; candidates that the pool lacks are fine-tuned while it is up."""
    parser = Parser("demo", "Serve the app; it fine-tunes the embedded scene's candidates at the first start.")
    parser.add_argument(
        "--pool",
        type=Path,
        metavar="DIR",
        action="append",
        help="a pool of your own, or a folder of pools; may be given again (default: the embedded scene)",
    )
    parser.add_argument("--forget", metavar="FAMILY", help="the embedded family to forget (default: digits)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than loopback need --auth or --public"
    )
    parser.add_argument("--port", type=int, default=7860)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--auth", type=Path, metavar="FILE", help="file with one user:password a line")
    who.add_argument("--public", action="store_true", help="let anybody in: the pool is read only, nothing is trained")
    proxy = parser.add_argument_group("behind a reverse proxy, such as nginx")
    proxy.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="where the proxy shows the app: /negmerge, or the whole address, as https://example.org/negmerge",
    )
    proxy.add_argument(
        "--forwarded-allow-ips",
        metavar="ADDRESS[,ADDRESS]",
        help="the proxy's own address: its X-Forwarded-For, -Proto and -Host are believed, nobody else's",
    )
    options = parser.parse_args(arguments)
    if options.pool and options.forget:
        parser.error("--forget is for the embedded scene: a pool of your own says itself what it forgets")
    _share_memory()
    return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    # The page takes seconds to import: fetch it while the pool is opened.
    threading.Thread(target=import_module, args=("negmerge_kit.app.launch",), daemon=True).start()

    from negmerge_kit.app import serve
    from negmerge_kit.cli.progress import watch
    from negmerge_kit.errors import PoolError
    from negmerge_kit.pools.pool import Pool
    from negmerge_kit.pools.pool_writer import holder
    from negmerge_kit.sweeps.background import BackgroundSweep
    from negmerge_kit.sweeps.pool_setup import start_pool
    from negmerge_kit.training.recipe import grid

    sweep = None
    pools: list[Pool | Path] = options.pool or []
    if not pools:

        def on_wait(folder: Path) -> None:
            print(f"negmerge demo: {holder(folder)} is making {folder}; waiting for its base", file=sys.stderr)

        pool, damaged = start_pool(f"tiny:{options.forget or 'digits'}", on_wait=on_wait)
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
        root_path=options.root_path,
        forwarded_allow_ips=options.forwarded_allow_ips,
        ready=ready,
    )
    return 0


def _share_memory() -> None:
    """Let all threads take memory from two arenas: by default each keeps its own, and what it freed, for good.

    By default every crowd of twenty visitors left 60 MB behind; with two arenas memory stays level.
    """
    from negmerge_kit.sweeps.malloc import mallopt

    M_ARENA_MAX = -8  # glibc's malloc.h
    mallopt(M_ARENA_MAX, 2)
