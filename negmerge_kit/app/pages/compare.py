"""The answers of the Compare page and `/compare`: every rule on the pool's candidates, shared by all visitors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from negmerge_kit.app.buttons import JobButtons, contents_of
from negmerge_kit.app.jobs import Done, Job, JobProgress, Jobs
from negmerge_kit.app.pages.rule_dials import DIALS, buffers_of
from negmerge_kit.app.recent import Recent
from negmerge_kit.app.requests import PageSubject, RequestTracker, session
from negmerge_kit.app.templates import notice, render
from negmerge_kit.comparison.compare import REFERENCE, Comparison, compare_rules, is_classifier
from negmerge_kit.comparison.methods import SEARCHES, Method, find_methods
from negmerge_kit.comparison.row import Row
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.merging.layout import BUFFERS
from negmerge_kit.plots import svg
from negmerge_kit.plots.frontier import frontier_finding, rule_frontier
from negmerge_kit.plots.scale_curve import reach
from negmerge_kit.pools.pool import Pool
from negmerge_kit.progress import Progress
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.scoring.early_stopping import Scales
from negmerge_kit.unlearning.delta_cache import Choice, Merged
from negmerge_kit.unlearning.workbench import Workbench

REMEMBERED_ROWS, REMEMBERED = 512, 16
WHICH = ("protocol", "matched")

EMPTY = (
    f"All {len(find_methods())} rules and searches are held against each other on this pool’s candidates at the floor "
    "above; on the embedded pool that takes a minute or two. What is finished is kept."
)
CLASSIFIER = (
    "Baselines such as retraining, and the membership attacks, are in `negmerge compare POOL --baselines all`: they "
    "train networks of their own."
)


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
        self.rows: Recent[tuple[Any, ...], Row] = Recent(REMEMBERED_ROWS)
        self._done: Recent[tuple[tuple[str, ...], float, str], Comparison] = Recent(REMEMBERED)

    def known(self, keep: float, buffers: str = "keep") -> Comparison | None:
        """The comparison of all rules at this floor, if it is finished for the pool as it is now."""
        return self._done.get((self.bench.pool.distinct, keep, buffers))

    def ready(self, keep: float, buffers: str = "keep") -> bool:
        """Whether every row is kept from before, so that nothing long is left to do."""
        pool = self.bench.pool
        rows = _Rows(self, pool, keep, None, buffers, write=False)
        return len(pool.distinct) > 1 and all(rows.find(method, pool.distinct) for method in find_methods())

    def follow(self, visitor: str, keep: float, buffers: str = "keep") -> Iterator[JobProgress | Done]:
        """Compare all rules, and say which comes next; rows of before are found again.

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
                self._done.put(key, news.result)
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
        found = self._compare.rows.get(self._key(method, ids))
        return found or self._kept.find(method, ids)

    def keep(self, row: Row, ids: Sequence[str]) -> None:
        self._compare.rows.put(self._key(row.method, ids), row)
        if self._write:
            self._kept.keep(row, ids)

    def _key(self, method: Method, ids: Sequence[str]) -> tuple[Any, ...]:
        return (method, tuple(ids), *self._made_from)


def compare_html(comparison: Comparison) -> str:
    """Finding, table and figure of a finished comparison; each scale is a button that loads its row."""
    figure = svg.inline(rule_frontier([comparison]), frontier_finding([comparison]), name="frontier", marks=True)
    # What really happened in searches whose scale alone would mislead.
    notes = [f"{row.method.title}: {row.outcome}. " for row in comparison.rows if row.outcome and row.status == "ok"]
    return render("compare.page", comparison, REFERENCE, figure, "".join(notes))


def shown_first(compare: Compare, keep: object, buffers: object = BUFFERS[0]) -> str:
    """What the page shows before anything is pressed: what is known, or what to do."""
    try:
        floor = floor_of(keep)
        if found := compare.known(floor, buffers_of(buffers)):
            return compare_html(found)
    except NegmergeError as error:
        return notice(str(error))
    count = len(compare.bench.pool.distinct)
    if count < 2:
        return notice(
            f"There is nothing to compare yet: the pool has {count} finished candidates, and it takes two.", "hint"
        )
    return notice(f"{EMPTY} {CLASSIFIER}" if is_classifier(compare.bench.pool) else EMPTY, "hint")


def follow(compare: Compare, visitor: str, keep: object, buffers: object = BUFFERS[0]) -> Iterator[tuple[str, str]]:
    """(progress, content) again and again until the comparison is there; errors are sentences in the first."""

    def begin() -> Iterator[JobProgress | Done]:
        for news in compare.follow(visitor, floor_of(keep), buffers_of(buffers)):
            yield Done(compare_html(news.result)) if isinstance(news, Done) else news

    return contents_of(begin)


def floor_of(value: object) -> float:
    """The floor that the page's slider sent: whole hundredths only, so that what is kept of them stays little.

    Raises:
        ParameterError: for anything else.

    >>> floor_of(0.9500000001)
    0.95
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.8 <= value <= 1:
        raise ParameterError(f"keep at least is {str(value)[:40]}: give a share from 0.8 to 1, such as 0.95.")
    return round(float(value), 2)


class CompareEvents:
    """The page's handlers for all visitors and pools; `asked` is (floor, pool, policy for running statistics).

    Args:
        of_pool: gives the comparisons of a pool.
        unlearn: knows what visitors chose on Unlearn, whose controls a row that is clicked moves.
    """

    def __init__(self, of_pool: Callable[[str], Compare], jobs: Jobs, unlearn: RequestTracker) -> None:
        self._of_pool, self._unlearn = of_pool, unlearn
        self.subject = PageSubject(_about, RequestTracker())
        self.comparing = JobButtons(self._run, "nm-compare", jobs, self.subject)

    def show(self, request: gr.Request, number: Any, *asked: Any) -> Iterator[Any]:
        """[progress, content] of what is known at another floor or pool; nothing else stays on the page."""
        before, is_still = self.subject.turn(request, number, *asked)
        yield "", gr.skip() if before else ""
        for news, html in _marked(self._look(session(request), *asked), *asked):
            if not is_still():
                return
            yield news, html or gr.skip()

    def load(self, request: gr.Request, number: Any, keep: Any, pool: str, buffers: Any, event: gr.EventData) -> Any:
        """[tabs, candidates, rule, scale, floor, dials...] of Unlearn for the row that was clicked.

        Raises:
            ParameterError: for a row of another comparison than the page is about, or one that is not there.
        """
        data = event._data if isinstance(event._data, dict) else {}
        at = _about(keep, pool, buffers)
        if data.get("of") != json.dumps(at):
            raise ParameterError("that row is of another pool or floor than stands here now: compare again.")
        row = self._of_pool(pool).load(data.get("row"), data.get("which"), *at[1:])
        if self._unlearn.overtaken(session(request), number, by_choice=True):
            return gr.skip()
        slider = gr.Slider(value=row.scale, maximum=reach(row.scale))
        dials = [row.params[name] if owner == row.rule else gr.skip() for owner, name in DIALS]
        return [gr.Tabs(selected="unlearn"), list(row.candidates), row.rule, slider, keep, *dials]

    def _look(self, visitor: str, keep: Any, pool: str, buffers: Any) -> Iterator[tuple[str, str]]:
        try:
            compare, at = self._of_pool(pool), (floor_of(keep), buffers_of(buffers))
            if compare.known(*at) is None and compare.ready(*at):
                yield from follow(compare, visitor, *at)
            else:
                yield "", shown_first(compare, *at)
        except NegmergeError as error:
            yield notice(str(error)), ""

    def _run(self, visitor: str, keep: Any, pool: str, buffers: Any) -> Iterator[tuple[str, str]]:
        yield from _marked(follow(self._of_pool(pool), visitor, keep, buffers), keep, pool, buffers)


def _about(keep: Any, pool: Any, buffers: Any) -> list[Any]:
    return [pool, floor_of(keep), buffers_of(buffers)]


def _marked(news: Iterator[tuple[str, str]], *asked: Any) -> Iterator[tuple[str, str]]:
    """Content says what it is of, so that a click on it cannot load another comparison's row."""
    for how_far, html in news:
        yield how_far, render("compare.marked", json.dumps(_about(*asked)), html) if html else ""
