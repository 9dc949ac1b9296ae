"""The pools that the app serves: opened when somebody asks for one, the longest unused closed for want of memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from negmerge_kit.app.downloads import Downloads
from negmerge_kit.app.jobs import CancelledError, Done, JobProgress, Jobs
from negmerge_kit.app.pages.agreement import AgreementPage
from negmerge_kit.app.pages.audit import AuditPage
from negmerge_kit.app.pages.compare import Compare
from negmerge_kit.app.pages.unlearn import Unlearn
from negmerge_kit.app.requests import RequestTracker
from negmerge_kit.app.score_cache import Scored
from negmerge_kit.app.templates import short
from negmerge_kit.errors import PoolError
from negmerge_kit.pools.pool import RECORD, Pool, open_pool
from negmerge_kit.progress import Progress, ProgressFn, no_progress
from negmerge_kit.sweeps.background import BackgroundSweep
from negmerge_kit.unlearning.workbench import Workbench

GIB = 1 << 30
CLOSE_SECONDS = 1.5
"""How long an app that is stopped waits for its visitors to hear so."""
MEMORY = 4 * GIB
"""Bytes of weight files of the pools that stay open side by side, where nobody says another figure."""


@dataclass(frozen=True)
class OpenPool:
    """One pool on the device, and what every page answers for it."""

    id: str
    bench: Workbench
    unlearn: Unlearn
    compare: Compare
    agreement: AgreementPage
    audit: AuditPage
    downloads: Downloads
    sweep: BackgroundSweep | None

    @property
    def device(self) -> str:
        """The device that is really used, as people call it."""
        device = self.bench.model.device
        if device.type == "cuda":
            return f"CUDA: {torch.cuda.get_device_name(device)}"
        return {"cpu": "CPU", "mps": "MPS (Apple GPU)"}.get(device.type, str(device))


class Pools:
    """What is served, by id: a pool's name, numbered where two share one.

    All pools share one line of heavy jobs. Those that are open answer while another is being opened.

    Args:
        pools: pools, or folders of pools; the first is opened at once by the code that builds the page.
        made: folder for what visitors download.
        device: where workbenches live.
        read_only: nothing is written into a pool's folder.
        memory: bytes of weight files up to which pools stay open side by side; at least one always does.
        sweep: fine-tunes what the first pool lacks.

    Raises:
        PoolError: if a folder holds no pool.
    """

    def __init__(
        self,
        pools: Sequence[Pool | str | Path],
        *,
        made: Path,
        device: str = "auto",
        read_only: bool = False,
        memory: int = MEMORY,
        sweep: BackgroundSweep | None = None,
    ) -> None:
        self.jobs, self.files, self._line = (Jobs(), Jobs(), Jobs())  # files and pools wait for no heavy job
        self.visitors, self.read_only = RequestTracker(), read_only
        self._made, self._device, self._memory, self._sweep = made, device, memory, sweep
        self._served: dict[str, Pool] = {}
        self._open: OrderedDict[str, OpenPool] = OrderedDict()
        self._turn, self._opening = threading.Lock(), threading.Lock()
        for pool in pools:
            self.add(pool)
        if not self._served:
            raise PoolError("there is no pool to serve: make one with `negmerge pool build tiny --out POOL`.")

    @property
    def ids(self) -> list[str]:
        """Every pool that is served, in the order in which they came."""
        with self._turn:
            return list(self._served)

    @property
    def opened(self) -> list[str]:
        """Those that are on the device now, the longest unused first."""
        with self._turn:
            return list(self._open)

    def close(self) -> None:
        """End all heavy work, for good, and give the visitors who wait for it the time to hear so."""
        lines = (self.jobs, self.files, self._line)
        for line in lines:
            line.close()
        until = time.monotonic() + CLOSE_SECONDS
        while any(line.followed for line in lines) and time.monotonic() < until:
            time.sleep(0.02)

    def add(self, pool: Pool | str | Path) -> str:
        """Serve one more pool from now on and say its id; a folder that is served already keeps its own.

        Pages that are open list it once they are reloaded, or where a handler updates their chooser.

        Raises:
            PoolError: if the folder holds no pool.
        """
        opened = pool if isinstance(pool, Pool) else open_pool(pool)
        folder = opened.folder.resolve()
        with self._turn:
            for id, other in self._served.items():
                if other.folder.resolve() == folder:
                    return id
            id, number = opened.name, 2
            while id in self._served:
                id, number = f"{opened.name}-{number}", number + 1
            self._served[id] = opened
            return id

    def follow(self, visitor: str, id: object) -> Iterator[JobProgress | Done]:
        """How long this pool is being opened already, in parallel to heavy jobs; at once done where it is open.

        Raises:
            CancelledError: if the visitor waits for it no longer.
            NegmergeError: as `open`.
        """
        if found := self._ready(id):
            yield Done(found)
        else:
            try:
                yield from self._line.follow(visitor, id, lambda job: self.open(id, report=job.report))
            except CancelledError:
                raise CancelledError("cancelled: choose the pool again to open it.") from None

    def leave(self, visitor: str) -> None:
        """This visitor waits for no pool any more."""
        self._line.cancel(visitor)

    def open(self, id: object, *, report: ProgressFn = no_progress) -> OpenPool:
        """The pool of this id, on the device.

        Raises:
            PoolError: for an id that is not served, or a pool whose files are missing or damaged.
            SceneError: if the images that this version draws are not those the pool was made with.
        """
        if found := self._ready(id):
            return found
        with self._opening:
            if found := self._ready(id):
                return found
            pool = self._served[str(id)]
            report(Progress("Opening this pool"))
            self._make_room(_bytes(pool))
            opened = self._load(str(id), pool, report)
            with self._turn:
                self._open[opened.id] = opened
            return opened

    def _ready(self, id: object) -> OpenPool | None:
        with self._turn:
            if not isinstance(id, str) or id not in self._served:
                listed = ", ".join(list(self._served)[:20])
                raise PoolError(f"there is no pool {short(id)} here: /pools lists those that are served ({listed}).")
            if id in self._open:
                self._open.move_to_end(id)
            return self._open.get(id)

    def _make_room(self, needed: int) -> None:
        """Close the longest unused pools; a job that still works on one keeps it until it ends."""
        with self._turn:
            while self._open and needed + sum(_bytes(other.bench.pool) for other in self._open.values()) > self._memory:
                self._open.popitem(last=False)

    def _load(self, id: str, pool: Pool, report: ProgressFn) -> OpenPool:
        first = next(iter(self._served)) == id
        sweep = self._sweep if first else None
        # Visitors choose the parameters: nothing of theirs is written to the pool's disk.
        bench = Workbench(pool.reload(), device=self._device, memory="read")
        report(Progress("Scoring this pool’s base"))
        scored = Scored(bench, self.jobs)
        page = Unlearn(scored, growing=sweep is not None, visitors=self.visitors)
        downloads = Downloads(scored, self._made / id)
        return OpenPool(
            id,
            bench,
            page,
            Compare(bench, self.jobs, read_only=self.read_only),
            AgreementPage(page, self.jobs),
            AuditPage(page, self.jobs, downloads, read_only=self.read_only),
            downloads,
            sweep,
        )


def find_pools(folder: str | Path) -> list[Path]:
    """The folder itself where it is a pool, else the pools that lie in it, by name.

    Raises:
        PoolError: if there is none.
    """
    folder = Path(folder)
    if (folder / RECORD).is_file() or not folder.is_dir():
        return [folder]
    found = sorted(file.parent for file in folder.glob(f"*/{RECORD}"))
    if not found:
        raise PoolError(
            f"neither {folder} nor a folder in it is a pool: make one with `negmerge pool build tiny --out {folder}`."
        )
    return found


def _bytes(pool: Pool) -> int:
    sizes = ((pool.folder / stored.file) for stored in pool.files)
    return sum(path.stat().st_size for path in sizes if path.is_file())
