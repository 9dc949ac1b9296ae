"""Grids of recipes as TOML files: the presets that ship, and files of the user's own in the same form.

    title, source     what it is and where it comes from
    mode              "standard" or "linear", where the recipes are meant for models of one mode only
    steps             how long to train on a data set that [epochs] does not list, in steps
    [recipe]          settings that all candidates share
    [epochs]          passes over the data, by the data set's name
    [vary]            lists of settings, of which every combination is a candidate; `epochs_times` multiplies epochs
    [[runs]]          single candidates, as settings over [recipe]

Every candidate gets its own `seed`, numbered from 0 on, unless the file says `seed` itself. Each sees the images in
its own order, too, unless [recipe] says `order = "shared"` or, as the authors' code trains, `order = "fixed"`.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

from negmerge_kit.errors import ParameterError
from negmerge_kit.safe_json import read_toml, shortened
from negmerge_kit.types import MODES, Json

PRESETS = {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.toml"))}
"""Grids that ship, by name."""

MOST = 10_000
"""Candidates of a grid."""

_TABLES: dict[str, type] = {
    "title": str,
    "source": str,
    "mode": str,
    "steps": int,
    "recipe": dict,
    "epochs": dict,
    "vary": dict,
    "runs": list,
}


def read_grid(
    name_or_file: str | Path, *, data: str | None = None, images: int | None = None, mode: str | None = None
) -> list[Json]:
    """The settings of every candidate of a grid, in order.

    Args:
        name_or_file: a name in PRESETS, or a TOML file.
        data: the forget set's name, which [epochs] may list.
        images: how many training images it has, for data sets that [epochs] does not list.
        mode: of the models that will be trained; None: not known yet.

    Raises:
        ParameterError: no such grid, a file that cannot be read as one, or a grid for models of another mode; the
            message says what is wrong with it.

    >>> runs = read_grid("paper-randaugment", data="mnist")
    >>> len(runs), runs[0]["augment"], runs[0]["epochs"], runs[29]["seed"]
    (30, 'rand-m1-n1-mstd0.5', 30, 29)
    """
    content = _parse(PRESETS.get(str(name_or_file), Path(name_or_file)))
    meant = content.get("mode")
    if mode is not None and meant not in (None, mode):
        raise ParameterError(
            f"grid '{name_or_file}' is for {meant} models, and mode is {mode}: choose mode {meant}, or another grid."
        )
    shared, vary = dict(content.get("recipe", {})), dict(content.get("vary", {}))
    if "epochs" in content or "steps" in content:
        shared |= _length(content, shared, data, images)
    combinations = itertools.product(*vary.values()) if vary else ()
    own = [*(dict(zip(vary, values, strict=True)) for values in combinations), *content.get("runs", [])]
    runs = [shared | settings for settings in own] or [shared]
    for k, run in enumerate(runs):
        run.setdefault("seed", k)
        if (times := run.pop("epochs_times", None)) is not None and type(run.get("epochs")) is int:
            run["epochs"] = max(1, math.ceil(times * run["epochs"]))
    return runs


def _parse(path: Path) -> dict[str, Any]:
    """The file as plain values, every table of the type it must have."""
    try:
        content: dict[str, Any] = read_toml(path, dict)
    except OSError as error:
        raise ParameterError(
            f"there is no grid '{path}': choose among {', '.join(PRESETS)}, or give a TOML file "
            f"({error.strerror or error})."
        ) from None
    except ValueError as error:
        raise ParameterError(f"{path} is not a TOML file ({error}): see training/presets/ for examples.") from None
    faults = [f"{shortened(key)} is not one of {', '.join(_TABLES)}" for key in content if key not in _TABLES]
    faults += [
        f"{key!r} must be a {kind.__name__}"
        for key, kind in _TABLES.items()
        if key in content and not isinstance(content[key], kind)
    ]
    if not faults:
        faults = [
            f"vary.{key[:60]} must be a list that is not empty"
            for key, values in content.get("vary", {}).items()
            if not isinstance(values, list) or not values
        ]
        faults += ["each of [[runs]] must be a table" for run in content.get("runs", []) if not isinstance(run, dict)]
        faults += [
            f"epochs.{key[:60]} must be a whole number"
            for key, value in content.get("epochs", {}).items()
            if type(value) is not int
        ]
        if content.get("mode", MODES[0]) not in MODES:
            faults.append(f"mode must be {' or '.join(MODES)}")
        varied = content.get("vary", {}).get("epochs_times")
        factors = [
            *(varied if isinstance(varied, list) else ()),
            *(
                table["epochs_times"]
                for table in (content.get("recipe", {}), *content.get("runs", []))
                if isinstance(table, dict) and "epochs_times" in table
            ),
        ]
        faults += [
            "epochs_times must be positive numbers"
            for value in factors
            if not isinstance(value, int | float) or not value > 0
        ]
    if not faults:  # counted before any is built: two lines of a file can multiply to thousands of millions
        count = math.prod(map(len, content.get("vary", {}).values())) + len(content.get("runs", []))
        faults = [f"it has {count:,} candidates, and {MOST:,} are the most"] if count > MOST else []
    if faults:
        raise ParameterError(f"grid {path} cannot be used: {'; '.join(faults)}.")
    return content


def _length(content: dict[str, Any], shared: Json, data: str | None, images: int | None) -> Json:
    """How many passes: as the file lists for the data set, else as many as its steps take, else what [recipe] says."""
    table = {str(name).lower(): value for name, value in content.get("epochs", {}).items()}
    if data is not None and data.lower() in table:
        return {"epochs": table[data.lower()]}
    batch = shared.get("batch_size")
    if images and content.get("steps") and isinstance(batch, int) and batch > 0:
        return {"epochs": max(1, round(content["steps"] / math.ceil(images / batch)))}
    return {}
