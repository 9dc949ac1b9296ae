"""Cache of which images a model answers right, by choice, split and scale: in memory and in the pool's folder.

POOL/searches/answers-<digest>.json      what one choice answers on one split, under what it was made from
"""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from negmerge_kit.pools.pool import Pool
from negmerge_kit.pools.result_store import ResultStore, made_with
from negmerge_kit.types import Json
from negmerge_kit.unlearning.delta_cache import Choice

KIND = "answers"

WRITE_EVERY = 0.2
"""Seconds between two writes; a killed process loses at most this much work."""

REMEMBERED = 512
"""Choices, each on one split, that a process remembers; a point of 50,000 images takes 6 kB."""

MOST_SCALES = 2048
"""Scales remembered for each choice; the oldest are evicted first."""


@dataclass
class Side:
    """One side at one scale, a bit an image in the line's order: which are right, and which were asked.

    `asked` is None where all were, so that a finished side takes one bit an image.
    """

    n: int
    right: bytes = b""
    asked: bytes | None = b""

    def bits(self) -> tuple[Tensor, Tensor]:
        """(right, asked), bool [n] each, which a caller may change."""
        asked = torch.ones(self.n, dtype=torch.bool) if self.asked is None else _bits(self.asked, self.n)
        return _bits(self.right, self.n), asked

    def take(self, right: Tensor, asked: Tensor) -> None:
        """Add answers; those that were there stay."""
        before, already = self.bits()
        self.right = _packed(torch.where(already, before, right & asked))
        self.asked = None if bool((asked | already).all()) else _packed(asked | already)

    @property
    def answered(self) -> int:
        """How many images were asked."""
        return self.n if self.asked is None else int(self.bits()[1].sum())

    def json(self) -> Json:
        """Plain values."""
        asked = self.asked  # before `right`, which another thread writes first
        return {"right": _text(self.right), "asked": None if asked is None else _text(asked)}

    @classmethod
    def from_json(cls, values: Any, n: int) -> Side:
        """Back from what `json` gave.

        Raises:
            ValueError: if it is none of ours, or holds another number of images; TypeError and KeyError say the same.
        """
        parts = [values["right"], *([] if values["asked"] is None else [values["asked"]])]
        raw = [base64.b64decode(part, validate=True) for part in parts]
        if any(len(part) not in (0, (n + 7) // 8) for part in raw) or (values["asked"] is None and not raw[0]):
            raise ValueError(values)
        return cls(n, raw[0], None if values["asked"] is None else raw[1])


@dataclass
class Point:
    """Both sides of one choice at one scale, and what their answers took, whenever they were given."""

    forget: Side
    retain: Side
    seconds: float = 0.0
    peak: int | None = None

    @property
    def images(self) -> int:
        """How many images were asked."""
        return self.forget.answered + self.retain.answered


@dataclass
class Known:
    """What is known of one choice on one split; of the base also how far each image is from being wrong, by side."""

    sizes: tuple[int, int]
    points: dict[float, Point] = field(default_factory=dict)
    margins: list[Tensor] | None = None

    def at(self, scale: float) -> Point:
        """The point of a scale; a new one holds no answer."""
        if scale not in self.points:
            if len(self.points) >= MOST_SCALES:
                self.points.pop(next(iter(self.points)))
            self.points[scale] = Point(Side(self.sizes[0]), Side(self.sizes[1]))
        return self.points[scale]

    def json(self) -> Json:
        """Plain values."""
        points = [
            {
                "scale": scale,
                "forget": point.forget.json(),
                "retain": point.retain.json(),
                "seconds": point.seconds,
                "peak": point.peak,
            }
            for scale, point in sorted(self.points.items())
            if point.images
        ]
        margins = (
            None if self.margins is None else [_text(side.numpy().astype("<f2").tobytes()) for side in self.margins]
        )
        return {"points": points, "margins": margins}

    @classmethod
    def from_json(cls, values: Any, sizes: tuple[int, int]) -> Known:
        """Back from what `json` gave.

        Raises:
            ValueError: if it is none of ours, or holds another number of images; TypeError and KeyError say the same.
        """
        known = cls(sizes)
        for entry in values["points"]:
            forget, retain = (
                Side.from_json(entry[name], n) for name, n in zip(("forget", "retain"), sizes, strict=True)
            )
            peak = entry["peak"]
            known.points[float(entry["scale"])] = Point(
                forget, retain, float(entry["seconds"]), None if peak is None else int(peak)
            )
        if values["margins"] is not None:
            raw = [np.frombuffer(base64.b64decode(part), dtype="<f2") for part in values["margins"]]
            if [len(side) for side in raw] != list(sizes):
                raise ValueError("margins")
            known.margins = [torch.from_numpy(side.astype(np.float32)) for side in raw]
        return known


class AnswerMemory:
    """Answers of every choice on every split; thread-safe.

    With a pool it is found in the pool's folder, under a key of all that an answer depends on: base, heads, scene,
    candidate files, rule, parameters, buffers, torch, the kind of device, our results version. What cannot be read
    counts as absent; a folder that cannot be written keeps nothing. Answers to the live subset are not kept there.

    Args:
        pool: whose folder keeps the answers; None keeps them in this process only.
        device: where models answer.
        write: whether new answers go to the folder, too.
    """

    def __init__(self, pool: Pool | None = None, device: torch.device | None = None, *, write: bool = True) -> None:
        self._pool, self._store, self._may_write = pool, pool and ResultStore(pool.folder / "searches"), write
        self._known: OrderedDict[tuple[Choice | None, str], Known] = OrderedDict()
        self._unsaved: set[tuple[Choice | None, str]] = set()
        self._written = time.monotonic()
        self._turn = threading.RLock()
        self._with = made_with(device) | _networks() if device is not None else {}

    def known(self, choice: Choice | None, split: str, sizes: tuple[int, int]) -> Known:
        """Answers of a choice, None for the base, on a split with the given numbers of images a side."""
        with self._turn:
            key = choice, split
            if key not in self._known:
                self._known[key] = self._read(choice, split, sizes)
                if len(self._known) > REMEMBERED:
                    self.flush()
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def changed(self, choice: Choice | None, split: str, *, soon: bool = False) -> None:
        """Write what is known of a choice, unless there was a write just now and another comes `soon`."""
        with self._turn:
            self._unsaved.add((choice, split))
            if not soon or time.monotonic() - self._written >= WRITE_EVERY:
                self.flush()

    def flush(self) -> None:
        """Write all pending answers."""
        with self._turn:
            self._written, unsaved, self._unsaved = time.monotonic(), self._unsaved, set()
            for key in unsaved:
                made_from = self.key(*key)
                if self._store and self._may_write and made_from is not None and key in self._known:
                    self._may_write = self._store.put(KIND, made_from, self._known[key].json())

    def key(self, choice: Choice | None, split: str) -> Json | None:
        """Cache key of a choice's answers on a split; None for what is not kept on disk."""
        if self._pool is None or split == "live":
            return None
        return {
            **self._with,
            "base": self._pool.base_file.sha256,
            "heads": self._pool.heads_file.sha256,
            "scene": self._pool.scene,
            "split": split,
            **({"candidates": []} if choice is None else choice.json() | {"candidates": list(choice.files)}),
        }

    def _read(self, choice: Choice | None, split: str, sizes: tuple[int, int]) -> Known:
        made_from = self.key(choice, split)
        found = self._store.get(KIND, made_from) if self._store and made_from is not None else None
        try:
            return Known(sizes) if found is None else Known.from_json(found, sizes)
        except (ValueError, TypeError, KeyError, AttributeError):
            return Known(sizes)


def _packed(bits: Tensor) -> bytes:
    return np.packbits(bits.numpy()).tobytes()


def _bits(packed: bytes, n: int) -> Tensor:
    if not packed:
        return torch.zeros(n, dtype=torch.bool)
    return torch.from_numpy(np.unpackbits(np.frombuffer(packed, np.uint8), count=n).astype(bool))


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _networks() -> Json:
    """Versions of the libraries that build the networks: another one may answer otherwise."""
    return {name: version(name) for name in ("open_clip_torch", "timm")}
