"""The page's table of recipes: rows from a preset, and recipes from whatever the rows hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from negmerge_kit.errors import ParameterError
from negmerge_kit.training.recipe import ORDERS, Recipe, grid

COLUMNS = ("learning rate", "epochs", "weight decay", "smoothing", "augmentation", "order", "seed")
MOST_ROWS = 64
MOST_EPOCHS = 10_000
DIGITS = 700
"""Training images of the scene that the embedded grid is made for."""

PRESETS = {
    "two runs, to see how it goes": ("tiny-even", 2),
    "eight runs that all learn well": ("tiny-even", 8),
    "eight uneven runs, as in a real search": ("tiny", 8),
}
"""The page's presets: a grid, and how many of its recipes, from the first on."""

_NAMES = ("lr", "epochs", "weight_decay", "label_smoothing", "augment", "order", "seed")
_WHOLE = ("epochs", "seed")


def preset_rows(preset: object, images: int) -> list[list[Any]]:
    """Rows of a preset, each with about as many steps on that many images as on the embedded scene.

    Raises:
        ParameterError: for a preset that does not exist.

    >>> preset_rows("two runs, to see how it goes", 700)
    [[0.0005, 4, 0.1, 0.0, 'none', 'own', 0], [0.0005, 8, 0.1, 0.0, 'none', 'own', 1]]
    >>> preset_rows("two runs, to see how it goes", 48)[0][1]
    44
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ParameterError(f"there is no such preset: choose among {', '.join(PRESETS)}.")
    name, count = PRESETS[preset]
    recipes = grid(name)[:count]
    batch = recipes[0].batch_size
    longer = math.ceil(DIGITS / batch) / math.ceil(max(1, images) / batch)
    return rows_of([replace(recipe, epochs=max(1, round(recipe.epochs * longer))) for recipe in recipes])


def rows_of(recipes: Sequence[Recipe]) -> list[list[Any]]:
    """The table that shows these recipes."""
    return [[getattr(recipe, name) for name in _NAMES] for recipe in recipes]


def another_row(rows: object) -> list[list[Any]]:
    """The table with its last row once more, under another seed.

    Raises:
        ParameterError: for a table that cannot be read, or is full.
    """
    given = [list(row) for row in _table(rows)]
    if len(given) >= MOST_ROWS:
        raise ParameterError(f"the table has {MOST_ROWS} rows, which is the most: start these first.")
    if not given:
        return preset_rows(next(iter(PRESETS)), DIGITS)[:1]
    last = rows_of(recipes_of(given))[-1]
    taken = {row[-1] for row in rows_of(recipes_of(given))}
    return [*given, [*last[:-1], next(seed for seed in range(MOST_ROWS + 1) if seed not in taken)]]


def one_less(rows: object) -> list[list[Any]]:
    """The table without its last row, whatever that row says; one row stays.

    Raises:
        ParameterError: for what is no table.

    >>> one_less([["1e-3", 4, "", "", "", "", 0], ["nonsense", 4, "", "", "", "", 1]])
    [['1e-3', 4, '', '', '', '', 0]]
    """
    given = _shaped(rows)
    return [list(row) for row in given[:-1] or given]


def recipes_of(rows: object) -> tuple[Recipe, ...]:
    """The recipes of the table's rows; rows with nothing in them do not count.

    Raises:
        ParameterError: naming the row and what is wrong with it; for a recipe that is there twice, or none at all.

    >>> recipes_of([["1e-3", "4", "0.1", "", "none", "own", 0], ["", None, "", "", "", "", ""]])[0].label
    'lr 1e-3 · 4 epochs · wd 0.1'
    """
    given = _table(rows)
    recipes = []
    for number, row in enumerate(given, 1):
        try:
            recipes.append(Recipe(**{name: _cell(name, value) for name, value in zip(_NAMES, row, strict=True)}))
        except ParameterError as error:
            raise ParameterError(f"row {number} of the grid: {error}") from None
        if recipes[-1].epochs > MOST_EPOCHS:
            raise ParameterError(
                f"row {number} of the grid: {recipes[-1].epochs} epochs are too many: give at most {MOST_EPOCHS:,}."
            )
    if not recipes:
        raise ParameterError("the grid is empty: add a row, or choose a preset.")
    if len(set(recipes)) < len(recipes):
        twice = next(recipe for recipe in recipes if recipes.count(recipe) > 1)
        raise ParameterError(f"the grid holds {twice.label} twice with seed {twice.seed}: give one another seed.")
    return tuple(recipes)


def _table(rows: object) -> list[Sequence[Any]]:
    given = [row for row in _shaped(rows) if any(not _blank(cell) for cell in row)]
    if len(given) > MOST_ROWS:
        raise ParameterError(f"the grid has {len(given)} rows, and {MOST_ROWS} are the most: start some of them first.")
    return given


def _shaped(rows: object) -> list[Sequence[Any]]:
    if not isinstance(rows, (list, tuple)) or len(rows) > 2 * MOST_ROWS:
        raise ParameterError(f"the grid is no table of at most {MOST_ROWS} rows: choose a preset and change it.")
    if not all(isinstance(row, (list, tuple)) and len(row) == len(COLUMNS) for row in rows):
        raise ParameterError(f"each row of the grid has {len(COLUMNS)} cells: choose a preset and change it.")
    return list(rows)


def _blank(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and cell != cell)


def _cell(name: str, cell: object) -> Any:
    """A cell's value as the recipe wants it; a blank one is the setting's default."""
    if _blank(cell):
        if name in ("lr", "epochs"):
            raise ParameterError(f"{COLUMNS[_NAMES.index(name)]} is empty: fill it in.")
        return Recipe.__dataclass_fields__[name].default
    if name == "augment":
        if not isinstance(cell, str) or len(cell) > 40:
            raise ParameterError('augmentation must be a text: write none, or such as "rand-m3-n2-mstd0.5".')
        return cell.strip()
    if name == "order":
        if not isinstance(cell, str) or cell.strip() not in ORDERS:
            raise ParameterError(f"order is {str(cell)[:30]!r}: write {', '.join(ORDERS[:-1])} or {ORDERS[-1]}.")
        return cell.strip()
    try:
        number = float(cell) if isinstance(cell, (str, int, float)) and not isinstance(cell, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    whole = name not in _WHOLE or number == math.floor(number) if math.isfinite(number) else False
    if not whole or abs(number) > 1e9:
        kind = "a whole number" if name in _WHOLE else "a number"
        raise ParameterError(f"{COLUMNS[_NAMES.index(name)]} is {str(cell)[:30]!r}: give {kind}.")
    return int(number) if name in _WHOLE else number
