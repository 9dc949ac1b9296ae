"""The list of candidates: aligned lines, all, none, best three, examples, and what is still being fine-tuned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from negmerge_kit.app.templates import notice, progress, render
from negmerge_kit.app.url_state import Address
from negmerge_kit.pools.pool import Candidate, Pool
from negmerge_kit.sweeps.background import SweepStatus
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.types import Json

WIDTHS = {"lr": 5, "epochs": 8, "wd": 7, "forget": 8, "kept": 8}
FILE_WIDTH = WIDTHS["lr"] + WIDTHS["epochs"] + WIDTHS["wd"]
SPACE = "\N{NO-BREAK SPACE}"


def head_row() -> str:
    """The heads of the columns, in the widths of the lines."""
    cells = "".join(name.rjust(width) for name, width in WIDTHS.items())
    return render("shared.candidate_heads", cells.replace(" ", SPACE))


def line(entry: Candidate, further: Sequence[str] = ()) -> str:
    """One candidate: its recipe, and its own forget and kept share at its own best scale; then its `further` settings.

    Only before those may the line break.
    """
    recipe, scores = entry.recipe, entry.scores or {}
    found = scores.get("forget")
    cells = {
        **_recipe_cells(recipe),
        "forget": f"{100 * found['value']:.0f}{SPACE}%" if found else "–",
        "kept": f"{100 * scores['kept']:.1f}{SPACE}%" if found else "–",
    }
    aligned = "".join(text.rjust(WIDTHS.get(name, FILE_WIDTH)) for name, text in cells.items())
    return " ".join(text.replace(" ", SPACE) for text in (aligned, " · ".join(further)) if text)


def _recipe_cells(recipe: Json) -> dict[str, str]:
    """Rate, epochs and decay; a candidate that was fine-tuned elsewhere has a file's name over the three columns."""
    if "lr" not in recipe:
        room = FILE_WIDTH - 1
        name = str(recipe.get("file", "your own")).removesuffix(".safetensors")
        return {"file": name if len(name) <= room else f"{name[: room - 1]}…"}
    lr = f"{recipe['lr']:.0e}".replace("e-0", "e-")
    return {"lr": lr, "epochs": str(recipe["epochs"]), "wd": f"{recipe['weight_decay']:g}"}


def choices(pool: Pool) -> list[tuple[str, str]]:
    """(line, id) of every finished candidate; of what labels say beyond the columns, that in which they differ."""
    further = [_further(entry.recipe) for entry in pool.entries]
    shared = set.intersection(*map(set, further)) if further else set()
    return [
        (line(entry, [part for part in parts if part not in shared]), entry.id)
        for entry, parts in zip(pool.entries, further, strict=True)
    ]


def _further(recipe: Json) -> list[str]:
    """What a recipe's label says after rate, epochs and decay: smoothing, augmentation and so on."""
    return Recipe.from_json(recipe).label.split(" · ")[3:] if "lr" in recipe else []


def best(pool: Pool, count: int = 3) -> list[str]:
    """The candidates that forget most alone at their own best scale; those without one come last."""

    def forget(entry: Candidate) -> float:
        found = (entry.scores or {}).get("forget")
        return found["value"] if found else 2.0

    chosen = {entry.id for entry in sorted(pool.only(pool.distinct).entries, key=forget)[:count]}
    return [id for id in pool.ids if id in chosen]


EXAMPLES: Mapping[str, Callable[[str, Pool], Address]] = {
    "NegMerge at its best scale": lambda id, pool: Address(id, list(pool.distinct)),
    "uniform average": lambda id, pool: Address(id, list(pool.distinct), rule="uniform"),
    "one candidate": lambda id, pool: Address(id, best(pool, 1), rule="task-arithmetic"),
}
"""Name to the state that it asks for, whose best scale is then searched."""


def selected_after(selected: list[str], known: list[str], ids: list[str], *, begun: bool) -> list[str]:
    """The selection once the pool has grown: who had everything gets the new ones too, unless they have begun.

    >>> selected_after(["a"], ["a"], ["a", "b"], begun=False), selected_after([], ["a"], ["a", "b"], begun=False)
    (['a', 'b'], [])
    >>> selected_after(["a"], ["a"], ["a", "b"], begun=True)
    ['a']
    """
    return list(ids) if set(selected) == set(known) and not begun else [id for id in ids if id in selected]


class Pace:
    """Time left of a sweep, from how much of it has passed since this was made."""

    def __init__(self, status: SweepStatus | None) -> None:
        self._started, self._share = time.monotonic(), _share(status) if status else 0.0

    def left(self, status: SweepStatus) -> str:
        """In words; empty while it is too early to say."""
        gone = _share(status) - self._share
        if gone <= 0.01:
            return ""
        seconds = (time.monotonic() - self._started) / gone * (1 - _share(status))
        return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"


def status_line(status: SweepStatus | None, pace: Pace) -> str:
    """The progress bar under the list; nothing once all candidates are there."""
    if status is None:
        return ""
    if status.error:
        return notice(status.error)
    if status.finished:
        return ""
    if status.waiting:
        text = f"Another process is fine-tuning these candidates: {status.done} of {status.total} are done"
        return progress(text, _share(status), "They appear here as they are finished.")
    what = f"Fine-tuning candidate {min(status.done + 1, status.total)} of {status.total}"
    if status.recipe_label is None:
        return progress(what, _share(status), "Starting.")
    loss = f"loss {status.loss:.2f}" if status.loss is not None else f"{status.doing} {status.step} of {status.steps}"
    hint = " · ".join(part for part in (status.recipe_label, loss, pace.left(status)) if part)
    return progress(what, _share(status), hint)


def _share(status: SweepStatus) -> float:
    part = status.part if status.done < status.total else 0.0
    return min(1.0, (status.done + part) / status.total) if status.total else 1.0
