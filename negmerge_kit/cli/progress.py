"""Progress in the terminal: a bar that moves where one looks on, and a line now and then in a log file."""

from __future__ import annotations

import sys
import threading

from tqdm import tqdm

from negmerge_kit.sweeps.background import BackgroundSweep, SweepStatus


def progress_bar(title: str, total: int | None = None, *, done: int = 0, unit: str = "candidate") -> tqdm:
    """A bar on standard error; without a terminal it prints every half minute only."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, initial=done, desc=title, unit=unit, mininterval=interval, miniters=0, smoothing=0.1)


def say(bar: tqdm, text: str, *, done: float | None = None) -> None:
    """Set the bar's text and position; it is drawn when its interval is over."""
    bar.set_postfix_str(text, refresh=False)
    bar.update(0 if done is None else done - bar.n)


def now(label: str, step: int, steps: int, loss: float | None, doing: str = "step") -> str:
    """What is trained or scored at this moment, in a few words.

    >>> now("lr 1e-3 · 4 epochs · wd 0.1", 12, 44, 0.531)
    'lr 1e-3 · 4 epochs · wd 0.1: step 12/44, loss 0.53'
    >>> now("lr 1e-3 · 4 epochs · wd 0.1", 5, 21, None, "scoring")
    'lr 1e-3 · 4 epochs · wd 0.1: scoring 5/21'
    """
    told = f"{label}: {doing} {step}/{steps}"
    return told if loss is None else f"{told}, loss {loss:.2f}"


def watch(sweep: BackgroundSweep, title: str) -> threading.Thread:
    """Show a background sweep in the terminal until it ends."""
    thread = threading.Thread(target=_watch, args=(sweep, title), name="progress", daemon=True)
    thread.start()
    return thread


def _watch(sweep: BackgroundSweep, title: str) -> None:
    status = sweep.status()
    if status.done == status.total:
        return
    with progress_bar(title, status.total, done=status.done) as bar:
        while True:
            status = sweep.wait(0.5)
            say(bar, _told(status), done=status.done)
            if status.finished:
                break
    if status.error:
        print(f"negmerge demo: {status.error}", file=sys.stderr)


def _told(status: SweepStatus) -> str:
    if status.waiting:
        return "another negmerge trains them"
    if status.recipe_label is None:
        return ""
    return now(status.recipe_label, status.step, status.steps, status.loss, status.doing)
