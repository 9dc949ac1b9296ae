"""Progress of a verb: one display, redrawn in place on a terminal, plain lines now and then in a log file."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from negmerge_kit.cli.options import seconds
from negmerge_kit.cli.terminal import escaped, raw
from negmerge_kit.progress import Progress

if TYPE_CHECKING:
    import rich.progress

    from negmerge_kit.progress import Progress
    from negmerge_kit.sweeps.background import BackgroundSweep, SweepStatus
    from negmerge_kit.sweeps.job import Job, Outcome

REDRAW = 0.2
"""Seconds between two drawings on a terminal."""
LOG_EVERY = 30.0
"""Seconds between two lines of a log file about what runs."""
WIDTH = 24
"""Characters of the bar."""


class ProgressDisplay:
    """A bar with the time that is left, and a line for each job that runs.

    Args:
        title: what is made.
        total: how much there is of it; None if unknown.
        done: how much was finished before.
        last: what is shown instead of the time left while the last one runs, where they differ too much for a forecast.
        keep: whether the bar stays on the terminal at the end.
        out: where it is drawn, by default standard error.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        done: int = 0,
        last: str | None = None,
        keep: bool = True,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._before, self._last = title, total, done, last
        self._out = out or sys.stderr
        self._clock, self._started, self._drawn = clock, clock(), -math.inf
        self._done: float = done
        self._failed, self._text = 0, ""
        self._running: dict[Job, Progress] = {}
        self._rows: dict[Job, rich.progress.TaskID] = {}
        self._terminal = _terminal_bars(self._out, keep) if self._is_terminal else None

    def __enter__(self) -> ProgressDisplay:
        if self._terminal is not None:
            self._bar = self._terminal.add_task(escaped(self._title), text=escaped(self._state()))
            self._terminal.start()
        if self._terminal is not None or self._total is not None:  # a log file gains nothing from a title alone
            self._draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for job in [*self._running]:
            self._remove(job)
        if self._terminal is not None:
            self._draw(at_once=True)
            self._terminal.stop()

    def show(self, text: str = "", *, done: float | None = None, total: int | None = None) -> None:
        """Set the text after the bar and the amount done; drawn when its interval is over."""
        self._text = text
        self._done = self._done if done is None else done
        self._total = self._total if total is None else total
        self._draw()

    def advance(self) -> None:
        """Count one more as done."""
        self.show(self._text, done=self._done + 1)

    def follow(self, progress: Progress) -> None:
        """Show work that counts its own steps: a progress callback."""
        self.show(done=progress.step, total=progress.total)

    def step(self, job: Job, progress: Progress) -> None:
        """Show the latest step of a job."""
        self._running[job] = progress
        self._draw()

    def end(self, outcome: Outcome) -> None:
        """Count a job as ended; its line stays above the bar."""
        self._remove(outcome.job)
        self._done += 1
        self._failed += outcome.failure is not None
        self._print(f"{self._counted()} {outcome_line(outcome)}")
        self._draw(at_once=self._is_terminal)

    def lines(self) -> list[str]:
        """Current lines of the display, as a log file gets them."""
        bar = "#" * int(WIDTH * self._position() / self._total) if self._total else ""
        bar = "" if self._total is None else f"[{bar:.<{WIDTH}}] "
        head = f"{self._title} {bar}{self._state()}"
        return [head, *(f"  {job.label}: {now('', progress)}" for job, progress in self._running.items())]

    @property
    def _is_terminal(self) -> bool:
        return self._out.isatty() and os.environ.get("TERM") != "dumb"

    def _position(self) -> float:
        """Amount done, including the parts of the jobs that run."""
        done = self._done + sum(progress.fraction or 0.0 for progress in self._running.values())
        return done if self._total is None else min(done, self._total)

    def _counted(self) -> str:
        return f"{int(self._done)}" if self._total is None else f"{int(self._done)}/{self._total}"

    def _state(self) -> str:
        failed = f"{self._failed} failed" if self._failed else ""
        return ", ".join(filter(None, (self._counted(), failed, self._left(), self._text)))

    def _left(self) -> str:
        if self._total is None:
            return ""
        if self._last is not None and int(self._done) + 1 == self._total:
            return self._last
        work, todo = self._position() - self._before, self._total - self._before
        if not 0 < work < todo:  # nothing is known yet, or all is done but what no step counts
            return ""
        return f"about {seconds((self._clock() - self._started) * (todo - work) / work)} left"

    def _draw(self, *, at_once: bool = False) -> None:
        if not at_once and self._clock() - self._drawn < (LOG_EVERY if self._terminal is None else REDRAW):
            return
        self._drawn = self._clock()
        if self._terminal is None:
            self._print("\n".join(self.lines()))
            return
        self._terminal.update(self._bar, completed=self._position(), total=self._total, text=escaped(self._state()))
        for job, progress in self._running.items():
            if job not in self._rows:
                self._rows[job] = self._terminal.add_task(f"  {escaped(job.label)}", total=1.0, text="")
            self._terminal.update(self._rows[job], completed=progress.fraction or 0.0, text=now("", progress))
        self._terminal.refresh()

    def _remove(self, job: Job) -> None:
        self._running.pop(job, None)
        if self._terminal is not None and job in self._rows:
            self._terminal.remove_task(self._rows.pop(job))

    def _print(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.print(escaped(text), soft_wrap=True)
        else:
            self._out.write(text + "\n")
            self._out.flush()


def _terminal_bars(out: TextIO, keep: bool) -> rich.progress.Progress:
    """Rich's bars drawn on demand only, without a refresh thread that would draw into a verb ended by a signal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    class PlainConsole(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False  # a verb that has to end at once could not bring a hidden cursor back

    console = PlainConsole(
        file=raw(out), force_terminal=True, force_jupyter=False, markup=False, emoji=False, highlight=False
    )
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(WIDTH, style="bright_black", complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[text]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=not keep,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def outcome_line(outcome: Outcome) -> str:
    """Format an outcome as one line; a bug's traceback follows on lines below.

    >>> from types import SimpleNamespace
    >>> from negmerge_kit.sweeps.job import Outcome
    >>> outcome_line(Outcome(SimpleNamespace(label="lr 1e-3"), value={}, seconds=12.0))
    'lr 1e-3: 12 s'
    """
    again = f", {outcome.attempts} tries" if outcome.attempts > 1 else ""
    if outcome.failure is not None:
        return f"{outcome.job.label} failed{again}:{chr(10) if outcome.is_bug else ' '}{outcome.failure}"
    scores = outcome.candidate.scores if outcome.candidate else None
    alone = ""
    if scores and scores["status"] == "ok":
        alone = f"alone it forgets to {100 * scores['forget']['value']:.0f} % at scale {scores['scale']:g}; "
    return f"{outcome.job.label}: {alone}{seconds(outcome.seconds)}{again}"


def now(label: str, progress: Progress) -> str:
    """Describe in a few words what is being trained or scored.

    >>> from negmerge_kit.progress import Progress
    >>> now("lr 1e-3 · 4 epochs · wd 0.1", Progress("step", step=12, total=44, loss=0.531))
    'lr 1e-3 · 4 epochs · wd 0.1: step 12/44, loss 0.53'
    >>> now("", Progress("scoring", step=5, total=21))
    'scoring 5/21'
    """
    loss = "" if progress.loss is None else f", loss {progress.loss:.2f}"
    return f"{label}{': ' if label else ''}{progress.message} {progress.step}/{progress.total}{loss}"


def watch(sweep: BackgroundSweep, title: str) -> threading.Thread:
    """Show a background sweep in the terminal until it ends."""
    thread = threading.Thread(target=_watch, args=(sweep, title), name="progress", daemon=True)
    thread.start()
    return thread


def _watch(sweep: BackgroundSweep, title: str) -> None:
    status = sweep.status()
    if status.done == status.total:
        return
    with ProgressDisplay(title, status.total, done=status.done) as display:
        while not status.finished:
            status = sweep.wait(0.5)
            display.show(_doing(status), done=status.done)
    if status.error:
        print(f"negmerge demo: {status.error}", file=sys.stderr)


def _doing(status: SweepStatus) -> str:
    if status.waiting:
        return "another negmerge trains them"
    if status.recipe_label is None:
        return ""
    progress = Progress(status.doing, status.part, status.step, status.steps, status.loss)
    return now(status.recipe_label, progress)
