"""Damaged and hostile files of all twelve kinds that the kit reads, made from a seed and tried in this process.

`python -m tests.cli.hostile COUNT` tries that many and prints what it finds.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from negmerge_kit.cards.files import read_card, weights_of
from negmerge_kit.cards.markdown import card_markdown
from negmerge_kit.checkpoints import save_checkpoint, sha256_file
from negmerge_kit.cli import main
from negmerge_kit.data.checking import checked_image
from negmerge_kit.data.decoded_cache import decode_image
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import NegmergeError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scenes.find import open_scene, scene_from_json
from negmerge_kit.scenes.scene_file import read_indices
from negmerge_kit.training.recipe import grid

NASTY: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**62,
    2**63,
    10**40,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "a",
    "\0",
    "a\0b",
    "\ud800",
    "\x1b[31m",
    "é",
    "n" * 300,
    "n" * 5000,
    "../../x",
    "/dev/zero",
    "nan",
    "tiny",
    "folder:",
    "folder:\0",
    "hf:",
    "hf:a/b@c",
    "1e999",
    "F32",
    "(",
    "(a+)+$",
    [],
    {},
    [[]],
    [{}],
    {"": {}},
    [None],
    [1, "a"],
    [0, 2**62, 2**62],
]
BROKEN = [
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"[" * 100_000,
    b"{" * 3,
    b'{"a":' * 100_000,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"\\u0000",
    b"\\ud800",
    b'"',
    b"'",
    b"=",
    b"a." * 3000,
    b"0x" + b"f" * 5000,
    b"\r",
    b"\n\n[",
    b"]]",
    b"PK\3\4",
    b"\x80\x02",
    b".",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a tree."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def changed(tree: Any, rng: random.Random) -> Any:
    """The tree with one to three values exchanged, dropped, doubled or renamed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(places(tree))
        if not path:
            if rng.random() < 0.05:
                return rng.choice(NASTY)
            continue
        holder = tree
        for key in path[:-1]:
            holder = holder[key]
        kind = rng.randrange(5)
        if kind < 3:
            holder[path[-1]] = json.loads(json.dumps(rng.choice(NASTY)))
        elif kind == 3:
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[str(rng.choice(["", "x", "\0", "schema", "__metadata__", "n" * 5000]))] = holder.pop(path[-1])
        else:
            holder += holder * rng.randint(1, 3)
    return tree


def torn(data: bytes, rng: random.Random, reach: int | None = None) -> bytes:
    """The bytes with one to four bits, bytes or pieces exchanged, cut out, put in or doubled."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        place = rng.randrange(min(len(data), reach or len(data)))
        kind = rng.randrange(7)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + rng.randint(1, 40)]
        elif kind == 4:
            data[place:place] = rng.choice(BROKEN)
        elif kind == 5:
            data[place : place + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
        else:
            other = rng.randrange(len(data))
            data[place:place] = data[other : other + rng.randint(1, 60)]
    return bytes(data)


def raw(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def parted(path: Path) -> tuple[Any, bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def toml(tree: Any, rng: random.Random) -> bytes:
    """A tree as TOML, as far as that goes; what it cannot say is left to `torn`."""
    lines, tables = [], []
    for key, value in tree.items() if isinstance(tree, dict) else ():
        name = json.dumps(key)
        if isinstance(value, dict):
            tables += [f"[{name}]", *(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items())]
        else:
            lines.append(f"{name} = {inline(value)}")
    text = "\n".join([*lines, *tables]).encode("utf-8", "surrogatepass")
    return torn(text, rng) if rng.random() < 0.3 else text


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return {"NaN": "nan", "Infinity": "inf", "null": "nil"}.get(text := json.dumps(value), text)


KINDS = (
    "safetensors",
    "shard index",
    "zip checkpoint",
    "old checkpoint",
    "pool.json",
    "sparse delta",
    "adapter",
    "grid",
    "scene",
    "indices",
    "card",
    "image",
)


class Stand:
    """A folder with one good file of every kind, and for each kind what makes a bad one and what reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = torch.Generator().manual_seed(0)
        base = {"a.weight": torch.randn(3, 4, generator=rng), "b": torch.ones(5), "n": torch.tensor(2)}
        self.base, self.candidate = folder / "base.safetensors", folder / "c.safetensors"
        save_checkpoint(self.base, base.items(), like=base)
        moved = {name: value + value.is_floating_point() for name, value in base.items()}
        save_checkpoint(self.candidate, moved.items(), like=moved)
        self._sharded(moved)
        self._adapter()
        self._pool(base)
        for name, old in (("zip.pt", False), ("old.pt", True)):
            content = {"state_dict": moved, "epoch": 3, "x": [1, 2.0, "a", {"b": None}]}
            torch.save(content, folder / name, _use_new_zipfile_serialization=not old)
        self.delta, self.unlearned = folder / "delta.safetensors", folder / "u.safetensors"
        self.run("merge", self.base, self.candidate, "--out", self.unlearned, "--delta-out", self.delta)
        self.card = json.loads((Path(__file__).parents[1] / "cases" / "card.json").read_text())
        makers = (
            self.safetensors,
            self.index,
            self.zipped,
            self.old,
            self.pool,
            self.sparse,
            self.adapter,
            self.grid,
            self.scene,
            self.indices,
            self.a_card,
            self.image,
        )
        self.kinds: dict[str, Callable[[random.Random], Callable[[], object]]] = dict(zip(KINDS, makers, strict=True))

    def _sharded(self, weights: dict[str, torch.Tensor]) -> None:
        self.shards = self.folder / "shards"
        self.shards.mkdir()
        names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
        halves = dict(zip(names, (dict([*weights.items()][:1]), dict([*weights.items()][1:])), strict=True))
        for name, half in halves.items():
            save_checkpoint(self.shards / name, half.items(), like=half)
        self.weight_map = {"metadata": {}, "weight_map": {name: file for file, half in halves.items() for name in half}}

    def _adapter(self) -> None:
        self.adapted = self.folder / "adapter"
        self.adapted.mkdir()
        shapes = {"A": (2, 4), "B": (3, 2)}
        factors = {f"base_model.model.a.lora_{x}.weight": torch.ones(shape) for x, shape in shapes.items()}
        save_checkpoint(self.adapted / "adapter_model.safetensors", factors.items(), like=factors)
        self.factors = parted(self.adapted / "adapter_model.safetensors")
        self.config = {
            "peft_type": "LORA",
            "lora_alpha": 4,
            "r": 2,
            "alpha_pattern": {"a": 8},
            "use_rslora": False,
            "rank_pattern": {},
            "init_lora_weights": True,
            "fan_in_fan_out": False,
        }

    def _pool(self, base: dict[str, torch.Tensor]) -> None:
        self.pooled = self.folder / "pool"
        self.pooled.mkdir()
        for name in ("base", "heads"):
            save_checkpoint(self.pooled / f"{name}.safetensors", base.items(), like=base)
        shutil.copy(self.candidate, self.pooled)
        score = {"value": 0.5, "n": 10, "low": 0.4, "high": 0.6, "split": "val"}
        images = [{"name": "digits", "split": split, "n": 2, "fingerprint": "ab"} for split in ("train", "val")]
        self.record = {
            "schema": 1,
            "scene": {
                "name": "tiny:digits",
                "model": "tiny",
                "mode": "standard",
                "forget": "digits",
                "retain": ["shapes"],
                "sets": images,
            },
            "base": {"file": "base.safetensors", "sha256": sha256_file(self.pooled / "base.safetensors")},
            "heads": {"file": "heads.safetensors", "sha256": sha256_file(self.pooled / "heads.safetensors")},
            "candidates": [
                {
                    "id": "a",
                    "file": "c.safetensors",
                    "sha256": sha256_file(self.candidate),
                    "seconds": 1.0,
                    "status": "done",
                    "recipe": {"lr": 0.001, "epochs": 4, "seed": 0},
                    "losses": [0.5],
                    "rates": [0.1],
                    "scores": {
                        "status": "ok",
                        "keep": 0.95,
                        "scale": 1.0,
                        "forget": score,
                        "retain": score,
                        "kept": 0.9,
                    },
                }
            ],
        }

    def run(self, *words: object) -> int:
        """A verb; what it says must be one line where it refuses."""
        out, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = main([str(word) for word in words])
        lines = said.getvalue().splitlines()
        a_file_each = words[:2] == ("pool", "verify") and all("recorded" in it or "missing" in it for it in lines)
        assert code == 0 or (code == 2 and (len(lines) == 1 or a_file_each)), (code, said.getvalue()[:300])
        return code

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def tables(self, path: Path, rng: random.Random) -> bytes:
        """A safetensors file with its header or its bytes changed."""
        if (chance := rng.random()) < 0.5:
            data = path.read_bytes()
            return torn(data, rng, None if chance < 0.2 else 8 + struct.unpack("<Q", data[:8])[0])
        header, body = parted(path)
        return raw(changed(header, rng), body)

    def safetensors(self, rng: random.Random) -> Callable[[], object]:
        bad = self.write("bad.safetensors", self.tables(self.candidate, rng))
        verb = rng.choice(["merge", "merge", "agreement", "apply"])
        if verb == "agreement":
            return lambda: self.run(verb, self.base, self.candidate, bad)
        words = [self.base, bad] if verb == "merge" or rng.random() < 0.5 else [bad, self.delta]
        return lambda: self.run(verb, *words, "--out", self.folder / "o.safetensors", "--scale", "1")

    def json(self, tree: Any, rng: random.Random) -> bytes:
        data = json.dumps(changed(tree, rng) if rng.random() < 0.7 else tree).encode()
        return torn(data, rng) if rng.random() < 0.4 else data

    def index(self, rng: random.Random) -> Callable[[], object]:
        self.write("shards/model.safetensors.index.json", self.json(self.weight_map, rng))
        return lambda: self.run("merge", self.base, self.shards, "--out", self.folder / "o.safetensors")

    def zipped(self, rng: random.Random) -> Callable[[], object]:
        bad = self.write("bad.pt", torn((self.folder / "zip.pt").read_bytes(), rng, rng.choice([1200, None])))
        return lambda: self.run("convert", bad, "--out", self.folder / "converted")

    def old(self, rng: random.Random) -> Callable[[], object]:
        bad = self.write("bad.pth", torn((self.folder / "old.pt").read_bytes(), rng))
        return lambda: self.run("convert", bad, "--out", self.folder / "converted")

    def pool(self, rng: random.Random) -> Callable[[], object]:
        self.write("pool/pool.json", self.json(self.record, rng))

        def read() -> None:
            self.run("pool", rng.choice(["show", "show", "verify"]), self.pooled, *rng.choice([[], ["--json"]]))
            assert scene_from_json(open_pool(self.pooled).scene).sources

        return read

    def sparse(self, rng: random.Random) -> Callable[[], object]:
        header, body = parted(self.delta)
        record = changed(json.loads(header["__metadata__"]["negmerge"]), rng)
        if rng.random() < 0.5:
            header["__metadata__"]["negmerge"] = json.dumps(record)
            bad = self.write("bad.safetensors", raw(header, body))
        else:
            bad = self.write("bad.safetensors", self.tables(self.delta, rng))
        verb, first = rng.choice([("apply", self.base), ("undo", self.unlearned)])
        return lambda: self.run(verb, first, bad, "--scale", "1", "--out", self.folder / "o.safetensors")

    def adapter(self, rng: random.Random) -> Callable[[], object]:
        self.write("adapter/adapter_config.json", self.json(self.config, rng))
        header, body = self.factors
        header = changed(header, rng) if rng.random() < 0.4 else header
        self.write("adapter/adapter_model.safetensors", raw(header, body))
        return lambda: self.run("merge", self.base, self.adapted, "--out", self.folder / "o.safetensors")

    def grid(self, rng: random.Random) -> Callable[[], object]:
        good = {
            "title": "t",
            "source": "s",
            "steps": 100,
            "recipe": {"lr": 0.001, "epochs": 2, "batch_size": 8},
            "epochs": {"cars": 3},
            "vary": {"lr": [0.1, 0.2], "epochs_times": [1, 2]},
            "runs": [{"lr": 0.5}],
        }
        path = self.write("g.toml", toml(changed(good, rng), rng))
        return lambda: grid(path, data=rng.choice([None, "cars"]), images=rng.choice([None, 50]))

    def scene(self, rng: random.Random) -> Callable[[], object]:
        good = rng.choice(
            [
                {"model": "tiny", "forget": "digits", "retain": ["shapes"], "mode": "standard", "corrupt": "refuse"},
                {
                    "model": {"arch": "negmerge-tiny", "pretrained": "base.safetensors"},
                    "forget": "folder:x",
                    "retain": "x",
                },
                {
                    "model": "classifier:tiny",
                    "data": "scans",
                    "forget": {"share": 0.1, "seed": 2},
                    "training": {"lr": 0.1},
                },
                {"model": "classifier:tiny", "data": "scans", "forget": {"indices": "g.txt"}},
            ]
        )
        self.write("g.txt", b"3\n4\n")
        path = self.write("s.toml", toml(changed(good, rng), rng))
        return lambda: open_scene(path).sources

    def indices(self, rng: random.Random) -> Callable[[], object]:
        good = rng.choice([b"3\n14\n15\n", b"[3, 14, 15]", b"[1, [2]]", b"{}"])
        path = self.write("i.txt", torn(good, rng) if rng.random() < 0.8 else self.json([1, 2, 3], rng))
        return lambda: read_indices(path)

    def a_card(self, rng: random.Random) -> Callable[[], object]:
        text = self.json(self.card, rng)
        path = self.write("u.card.json", text)
        if rng.random() < 0.3:
            path = self.write("u.card.md", b"# Card\n\n```json\n" + text + b"\n```\n")

        def read() -> None:
            self.run("verify", path, "--pool", self.folder / "nowhere")
            record = read_card(path)
            card_markdown(record)
            weights_of(path, record)

        return read

    def image(self, rng: random.Random) -> Callable[[], object]:
        from PIL import Image

        kind = rng.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
        pixels = np.random.default_rng(rng.randrange(9)).integers(0, 255, (9, 7, 3), dtype=np.uint8)
        mode = rng.choice(["RGB", "L", "P"]) if kind != "JPEG" else "RGB"
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, kind)
        data = torn(file.getvalue(), rng, rng.choice([60, None]))
        transform = Transform(8, 8)

        def read() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decode_image(transform, ("a.png", lambda: data))
                checked_image("a.png", data)

        return read


def tried(stand: Stand, count: int, seed: int = 0, only: str | None = None) -> tuple[Counter[str], list[str]]:
    """How many inputs, of each kind in turn or of one, were read and refused, and a report of everything else."""
    rng, results, faults = random.Random(seed), Counter[str](), []
    kinds = [(name, make) for name, make in stand.kinds.items() if only in (None, name)]
    for number in range(count):
        name, make = kinds[number % len(kinds)]
        call, start = make(rng), time.monotonic()
        try:
            results[f"{name}: {'refused' if call() == 2 else 'read'}"] += 1
        except NegmergeError as error:
            results[f"{name}: refused"] += 1
            if len(str(error)) > 10_000:
                faults.append(f"{name} {number}: a message of {len(str(error))} letters: {str(error)[:200]}")
        except BaseException as error:
            results[f"{name}: fault"] += 1
            trace = "".join(traceback.format_exception(error)[-3:])
            faults.append(f"{name} {number}: {type(error).__name__}: {str(error)[:200]}\n{trace[-700:]}")
        if (took := time.monotonic() - start) > 10:
            faults.append(f"{name} {number}: took {took:.0f} s")
    left = [path for path in stand.folder.rglob("*") if path.name.endswith((".lock", ".part"))]
    return results, [*faults, *(f"{path} was left" for path in left)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        found, wrong = tried(Stand(Path(place)), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for line in sorted(found.items()):
        print(*line)
    print(sum(found.values()), "inputs,", len(wrong), "faults")
    shown: set[str] = set()
    for report in wrong:
        if (key := report.splitlines()[-1] + report.split(":")[0].split()[0] + report[-300:-100]) not in shown:
            shown.add(key)
            print("-----", report)
