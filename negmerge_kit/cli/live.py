"""A sweep as one looks on: a table that is drawn anew on a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from negmerge_kit.cli.options import seconds
from negmerge_kit.cli.progress import now
from negmerge_kit.progress import Progress
from negmerge_kit.sweeps.protocol import Job, Outcome

REDRAW = 0.2
"""Seconds between two drawings on a terminal."""
LOG_EVERY = 30.0
"""Seconds between two lines of a log file about what runs."""
WIDTH = 24
"""Characters of the bar."""


class LiveTable:
    """Jobs, losses and the time that is left.

    Args:
        title: what the sweep makes.
        todo: jobs of this sweep; `done` were finished by an earlier one.
        last: what stands for the time left while the last job runs, where jobs differ too much for a forecast.
        out: where it is drawn, by default standard error.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        title: str,
        todo: int,
        *,
        done: int = 0,
        last: str = "",
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._todo, self._before = title, todo, done
        self._last = last
        self._out = out or sys.stderr
        self._clock = clock
        self._started = clock()
        self._drawn = -math.inf
        self._lines = 0
        self._ended = self._failed = 0
        self._running: dict[Job, Progress] = {}

    def __enter__(self) -> LiveTable:
        self._draw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.clear()
        self._draw(at_once=self._live)

    def step(self, job: Job, progress: Progress) -> None:
        """A job has come a step further."""
        self._running[job] = progress
        self._draw()

    def end(self, outcome: Outcome) -> None:
        """A job has ended; its line stays above the table."""
        self._running.pop(outcome.job, None)
        self._ended += 1
        self._failed += outcome.failure is not None
        self.say(f"{self._before + self._ended}/{self._before + self._todo} {told(outcome)}")
        self._draw(at_once=self._live)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._wipe()
        self._out.write(text + "\n")
        self._out.flush()

    def lines(self) -> list[str]:
        """The table as it is now."""
        share = self._share()
        bar = "#" * int(WIDTH * share)
        counted = f"{self._before + self._ended}/{self._before + self._todo}"
        failed = f", {self._failed} failed" if self._failed else ""
        head = f"{self._title} [{bar:.<{WIDTH}}] {counted}{failed}{self._left()}"
        return [head, *(f"  {now(job.label, p.step, p.total, p.loss, p.message)}" for job, p in self._running.items())]

    @property
    def _live(self) -> bool:
        return self._out.isatty()

    def _share(self) -> float:
        whole = self._before + self._todo
        return min(1.0, (self._before + self._work()) / whole) if whole else 1.0

    def _work(self) -> float:
        """Jobs done by this sweep, with the parts of those that run."""
        return self._ended + sum(p.fraction or 0.0 for p in self._running.values())

    def _left(self) -> str:
        work, spent = self._work(), self._clock() - self._started
        if self._last and self._ended + 1 == self._todo:
            return f", {self._last}"
        if not 0 < work < self._todo:  # nothing is known yet, or all is done but what no step counts
            return ""
        return f", about {seconds(spent * (self._todo - work) / work)} left"

    def _draw(self, *, at_once: bool = False) -> None:
        if not at_once and self._clock() - self._drawn < (REDRAW if self._live else LOG_EVERY):
            return
        self._drawn = self._clock()
        lines = self.lines()
        if self._live:
            self._wipe()
            self._lines = len(lines)
        self._out.write("\n".join(lines) + "\n")
        self._out.flush()

    def _wipe(self) -> None:
        if self._lines:
            getattr(self._out, "control", self._out.write)(f"\x1b[{self._lines}F\x1b[J")
            self._lines = 0


def told(outcome: Outcome) -> str:
    """An outcome in a line; a bug's traceback follows on lines of its own.

    >>> from types import SimpleNamespace
    >>> told(Outcome(SimpleNamespace(label="lr 1e-3"), value={}, seconds=12.0))
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
