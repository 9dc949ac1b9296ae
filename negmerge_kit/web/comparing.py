"""What the Compare page and `/compare` answer: every rule on the pool's candidates, kept and shared by all visitors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from negmerge_kit.checkpoints.pool import Pool
from negmerge_kit.errors import ParameterError
from negmerge_kit.lab.comparison.comparison import Comparison, compare_rules
from negmerge_kit.lab.comparison.methods import SEARCHES, Method, find_methods
from negmerge_kit.lab.comparison.row_store import RowStore
from negmerge_kit.lab.comparison.rows import Row
from negmerge_kit.lab.delta_cache import Choice, Merged
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.progress import Progress
from negmerge_kit.scoring.early_stopping import Scales
from negmerge_kit.vision.scene import Splits
from negmerge_kit.web.jobs import Done, Job, JobProgress, Jobs

REMEMBERED_ROWS, REMEMBERED = 512, 16
WHICH = ("protocol", "matched")


@dataclass(frozen=True)
class Loaded:
    """A row as the controls of the Unlearn page: what it merges, and at which scale."""

    candidates: tuple[str, ...]
    rule: str
    params: Mapping[str, Any]
    scale: float


class Compare:
    """Comparisons of one workbench's pool. What a page asks for is kept in the pool too, unless it is read-only."""

    def __init__(self, bench: Workbench, jobs: Jobs, *, read_only: bool = False) -> None:
        self.bench, self.jobs, self._read_only = bench, jobs, read_only
        self._rows: OrderedDict[tuple[Any, ...], Row] = OrderedDict()
        self._done: OrderedDict[tuple[tuple[str, ...], float, str], Comparison] = OrderedDict()
        self._turn = threading.Lock()

    def known(self, keep: float, buffers: str = "keep") -> Comparison | None:
        """The comparison of all rules at this floor, if it is finished for the pool as it is now."""
        with self._turn:
            return self._done.get((self.bench.pool.distinct, keep, buffers))

    def ready(self, keep: float, buffers: str = "keep") -> bool:
        """Whether every row is kept from before, so that nothing long is left to do."""
        pool = self.bench.pool
        rows = _Rows(self, pool, keep, None, buffers, write=False)
        return len(pool.distinct) > 1 and all(rows.find(method, pool.distinct) for method in find_methods())

    def follow(self, visitor: str, keep: float, buffers: str = "keep") -> Iterator[JobProgress | Done]:
        """Compare all rules, telling which comes next; rows of before are found again.

        Raises:
            NegmergeError: with a sentence for the page.
        """
        pool = self.bench.refresh()
        key = (pool.distinct, keep, buffers)
        found = self.known(keep, buffers)
        if found:
            yield Done(found)
            return
        shared = ("compare", pool.folder, *key)
        for news in self.jobs.follow(visitor, shared, lambda job: self._compare(job, pool, keep, buffers)):
            if isinstance(news, Done):
                with self._turn:
                    self._done[key] = news.result
                    if len(self._done) > REMEMBERED:
                        self._done.popitem(last=False)
            yield news

    def answer(self, methods: Sequence[Method], keep: float, scales: Scales, buffers: str = "keep") -> Comparison:
        """The comparison that a script asks for; nothing of it is written to the pool.

        Raises:
            NegmergeError: as `compare_rules`.
        """
        pool = self.bench.refresh()
        found: Comparison = self.jobs.do(
            lambda job: self._compare(job, pool, keep, buffers, scales, methods, write=False)
        )
        return found

    def load(self, name: object, which: object, keep: float, buffers: str = "keep") -> Loaded:
        """The finished row `name` at its scale by the protocol, or at matched retention.

        Raises:
            ParameterError: for a row that is not there, or has no scale by that measure.
        """
        comparison = self.known(keep, buffers)
        rows = {row.method.name: row for row in comparison.rows} if comparison else {}
        row = rows.get(name) if isinstance(name, str) else None
        if row is None or which not in WHICH:
            raise ParameterError("that row is not there any more: press “Compare all rules” again.")
        scale = row.scale if which == "protocol" else row.matched.crossing.scale if row.matched else None
        if scale is None:
            raise ParameterError(f"{row.method.title} has no scale by that measure: choose another row.")
        rule = "uniform" if row.method.rule in SEARCHES else row.method.rule
        return Loaded(row.candidates, rule, row.params, scale)

    def _compare(
        self,
        job: Job,
        pool: Pool,
        keep: float,
        buffers: str,
        scales: Scales = None,
        methods: Sequence[Method] | None = None,
        *,
        write: bool = True,
    ) -> Comparison:
        rows = _Rows(self, pool, keep, scales, buffers, write=write and not self._read_only)
        methods = find_methods() if methods is None else methods

        def on_row(progress: Progress) -> None:
            # Of the last rule nobody knows how long it takes: rules differ too much.
            job.tell(progress.message, progress.fraction, forecast=progress.step + 1 < progress.total)

        stand = _Stand(self.bench, pool, job)
        found = compare_rules(stand, methods, keep=keep, scales=scales, buffers=buffers, kept=rows, on_row=on_row)
        return replace(found, runner=None)  # which holds every answer to every image

    def remembered(self, key: tuple[Any, ...]) -> Row | None:
        """A row of this process."""
        with self._turn:
            return self._rows.get(key)

    def remember(self, key: tuple[Any, ...], row: Row) -> None:
        """Take in a row; the oldest are forgotten first."""
        with self._turn:
            self._rows[key] = row
            if len(self._rows) > REMEMBERED_ROWS:
                self._rows.popitem(last=False)


class _Stand:
    """A workbench on the pool as it was when the job began, which ends the job between two looks at images."""

    def __init__(self, bench: Workbench, pool: Pool, job: Job) -> None:
        self._bench, self.pool, self._job = bench, pool, job
        self.scorer = bench.scorer.through(self)

    def at(self, choice: Choice | None, scale: float) -> AbstractContextManager[Any]:
        self._job.tell()
        return self._bench.at(choice, scale)

    def images(self, split: str) -> Splits:
        return self._bench.images(split)

    def merged(self, choice: Choice) -> Merged:
        self._job.tell()
        return self._bench.merged(choice)

    def yield_to_foreground(self) -> None:
        self._bench.yield_to_foreground()

    def choose(
        self,
        candidates: Iterable[str] | None = None,
        rule: str = "negmerge",
        params: Mapping[str, Any] | None = None,
        *,
        buffers: str = "keep",
    ) -> Choice:
        ids = self.pool.distinct if candidates is None else candidates
        return self._bench.choose(ids, rule, params, buffers=buffers)


class _Rows:
    """Finished rows: those of this process, and those that the pool's folder keeps."""

    def __init__(self, compare: Compare, pool: Pool, keep: float, scales: Scales, buffers: str, *, write: bool) -> None:
        self._compare, self._write = compare, write
        self._kept = RowStore(pool, keep=keep, scales=scales, buffers=buffers, device=compare.bench.model.device)
        hashes = tuple(entry.sha256 for entry in pool.entries)
        self._made_from = (keep, None if scales is None else tuple(scales), buffers, hashes)

    def find(self, method: Method, ids: Sequence[str]) -> Row | None:
        found = self._compare.remembered(self._key(method, ids))
        return found or self._kept.find(method, ids)

    def keep(self, row: Row, ids: Sequence[str]) -> None:
        self._compare.remember(self._key(row.method, ids), row)
        if self._write:
            self._kept.keep(row, ids)

    def _key(self, method: Method, ids: Sequence[str]) -> tuple[Any, ...]:
        return (method, tuple(ids), *self._made_from)
