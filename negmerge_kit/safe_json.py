"""Untrusted JSON and TOML: read within bounds and checked against a schema before use.

A schema is a kind, and kinds nest:

    str, int, (int, float)      a type, or several; true and false are numbers nowhere
    re.compile("[0-9a-f]{64}")  text that the whole pattern matches
    a function                  whatever it says yes to
    {"name": kind, "n?": kind}  a table; an entry with ? may be absent or null
    {...: kind}                 a table of any names
    [kind]                      a list

Every fault is a ValueError or an OSError whose text says what is wrong; the caller adds the file and the remedy.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

NUMBER = (int, float)
LARGEST = 64 << 20
"""Bytes of a file of values: a pool of thousands of candidates with their losses has a tenth of that."""
DEEPEST = 64
"""Tables within tables: our own files have six."""
LONGEST_NAME = 1000
"""Letters of an entry's name: nobody calls a tensor or a setting so."""
UNSPEAKABLE = re.compile("[\0\ud800-\udfff]")
"""NUL and halves of surrogate pairs: no name of a file can hold the one, no UTF-8 the others."""


def check_regular(path: Path) -> Path:
    """The path itself, if a plain file is there: pipes and devices are not opened, they may never end.

    Raises:
        OSError: for whatever else is there, or if nothing is; ValueError for a name that no file can have.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if path.is_dir() else "Not a plain file", str(path))
    return path


def is_plain_file(path: Path) -> bool:
    """Whether a plain file is there; names that no file can have, and links in a circle, are none.

    >>> is_plain_file(Path("n" * 5000))
    False
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def read_json(path: Path, kind: Any, *, largest: int = LARGEST) -> Any:
    """The values of a JSON file, if they are of this kind; OSError or ValueError otherwise."""
    return checked(parse_json(_bytes(path, largest)), kind)


def read_toml(path: Path, kind: Any, *, largest: int = 1 << 20) -> Any:
    """The values of a TOML file, if they are of this kind; OSError or ValueError otherwise."""
    text = _bytes(path, largest).decode()
    try:
        return checked(plain(tomllib.loads(text)), kind)
    except RecursionError:
        raise ValueError("its tables are nested without end") from None


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON text, each of which every part of the kit can hold, print and write again.

    Raises:
        ValueError: for what is no JSON, names an entry twice, or holds what `plain` refuses.

    >>> parse_json('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: 'a' occurs twice
    """
    try:
        return plain(json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole))
    except RecursionError:
        raise ValueError("its tables are nested without end") from None


def finite(number: float) -> float | None:
    """The number, or None where it is NaN or infinite, which JSON does not have.

    >>> finite(0.5), finite(math.nan)
    (0.5, None)
    """
    return number if math.isfinite(number) else None


def plain(values: Any) -> Any:
    """The values themselves, if they nest and are no larger than ours do.

    Raises:
        ValueError: for tables nested deeper than 64, names longer than 1000 letters, text with NUL or half a surrogate
            pair in it, whole numbers beyond 64 bits, and numbers that are not finite.

    >>> plain({"lr": float("inf")})
    Traceback (most recent call last):
    ValueError: a number in it is inf, which is not finite
    """
    waiting = [iter((values,))]
    while waiting:
        for value in waiting[-1]:
            if isinstance(value, str):
                if UNSPEAKABLE.search(value):
                    raise ValueError(f"a text in it has a character that is none: {shortened(value)}")
            elif isinstance(value, int):
                if not -(2**63) <= value < 2**63:
                    raise ValueError("a whole number in it is longer than 64 bits")
            elif isinstance(value, float):
                if not math.isfinite(value):
                    raise ValueError(f"a number in it is {value}, which is not finite")
            elif isinstance(value, dict | list):
                if isinstance(value, dict) and any(len(key) > LONGEST_NAME for key in value):
                    raise ValueError(f"a name in it is longer than {LONGEST_NAME} letters")
                waiting.append(_parts(value))
                break
        else:
            waiting.pop()
        if len(waiting) > DEEPEST:
            raise ValueError("its tables are nested without end")
    return values


def checked(found: Any, kind: Any) -> Any:
    """What was found, if it is of the kind.

    Raises:
        ValueError: naming the first entry that is not.

    >>> checked({"steps": "many"}, {"steps": int})
    Traceback (most recent call last):
    ValueError: its entry 'steps' is 'many', which is of the wrong kind
    """
    if (wrong := wrong_entry(found, kind)) is not None:
        name, value = wrong
        said = "missing" if value is None else f"{shortened(value)}, which is of the wrong kind"
        raise ValueError(f"its entry '{name}' is {said}" if name else "it is no such file by its content")
    return found


def wrong_entry(found: Any, kind: Any, name: str = "") -> tuple[str, Any] | None:
    """Name and value of the first entry that is not of its kind, or None.

    >>> wrong_entry({"sets": [{"n": 3}, {"n": True}]}, {"sets": [{"n": int}], "mode?": str})
    ('sets[1].n', True)
    """
    if isinstance(kind, dict):
        if not isinstance(found, dict):
            return name, found
        for key, inner in kind.items():
            names = list(found) if key is ... else [key.removesuffix("?")]
            for plain_name in names:
                if key is not ... and key.endswith("?") and found.get(plain_name) is None:
                    continue
                wrong = wrong_entry(found.get(plain_name), inner, f"{name}.{plain_name}".lstrip("."))
                if wrong is not None:
                    return wrong
        return None
    if isinstance(kind, list):
        if not isinstance(found, list):
            return name, found
        inside = (wrong_entry(item, kind[0], f"{name}[{k}]") for k, item in enumerate(found))
        return next((wrong for wrong in inside if wrong is not None), None)
    if isinstance(kind, re.Pattern):
        fits = isinstance(found, str) and kind.fullmatch(found) is not None
    elif isinstance(kind, type | tuple):
        fits = isinstance(found, kind) and (not isinstance(found, bool) or kind is bool)
    else:
        fits = bool(kind(found))
    return None if fits else (name, found)


def shortened(value: object) -> str:
    """A value in a message: in quotes where it is text, on one line, and no longer than can be read.

    >>> shortened("a" * 100)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"
    """
    said = repr(value[:60]) if isinstance(value, str) else repr(value)
    return said if len(said) <= 60 else f"{said[:52]}…"


def _bytes(path: Path, largest: int) -> bytes:
    with check_regular(path).open("rb") as file:
        text = file.read(largest + 1)
    if len(text) > largest:
        raise ValueError(f"it is longer than {largest >> 20} MB")
    return text


def _parts(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    else:
        yield from value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{shortened(twice)} occurs twice")
    return table


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a whole number in it is longer than 64 bits")
    return int(digits)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
