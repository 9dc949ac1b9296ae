"""Files that mean harm, of every kind that the kit reads: one sentence, exit code 2, and no pipe is opened.

Three runs of 7,200 (seeds 11, 12 and 13 of `python -m tests.cli.hostile`) found no fault; here a part of them is.
"""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path

import pytest
import torch

from negmerge_kit.checkpoints import save_checkpoint
from negmerge_kit.cli import main
from negmerge_kit.data.find import find_data
from negmerge_kit.errors import CheckpointError, NegmergeError, ParameterError, SceneError
from negmerge_kit.pools.pool import Candidate, open_pool
from negmerge_kit.pools.unfinished import find_written
from negmerge_kit.safe_json import checked, parse_json, read_json, read_toml
from negmerge_kit.scenes.find import open_scene
from negmerge_kit.scenes.scene_file import read_indices
from negmerge_kit.training.recipe import grid
from tests.cli.hostile import KINDS, Stand, tried

CASES = Path(__file__).parents[1] / "cases"
TRIED = 250


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    return Stand(tmp_path_factory.mktemp("stand"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_hostile_file_is_a_traceback(stand, kind):
    """Of each of the twelve kinds: read or refused, in ten seconds each, and no lock or half file is left."""
    results, faults = tried(stand, TRIED, only=kind)
    assert not faults, "\n".join(faults[:5])
    assert results[f"{kind}: read"] + results[f"{kind}: refused"] == TRIED and results[f"{kind}: refused"] > TRIED // 10


def test_the_fuzz_notices_a_reader_that_trusts(tmp_path, monkeypatch):
    """Its own test: with a reader that looks nothing up, faults are found."""
    monkeypatch.setattr("negmerge_kit.pools.pool.checked", lambda found, kind: found)
    trusting = Stand(tmp_path)
    assert tried(trusting, 60, only="pool.json")[1]


def refused(capsys, *words):
    start = time.monotonic()
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert code == 2 and said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err, (words, said)
    assert time.monotonic() - start < 10
    return said.err


def weights(path, value=1.0):
    tensors = {"w": torch.full((2,), value)}
    return save_checkpoint(path, tensors.items(), like=tensors)


def places(folder):
    """Paths that cannot be read: a pipe, a device, links in a circle, names too long, one that is not UTF-8."""
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "circle.safetensors").symlink_to(folder / "circle.safetensors")
    return [
        folder / "pipe.safetensors",
        Path("/dev/zero"),
        folder / "circle.safetensors",
        folder / ("n" * 300),
        folder / ("n/" * 3000),
        folder / os.fsdecode(b"\xff.safetensors"),
    ]


def test_pipes_circles_and_names_that_no_file_has(tmp_path, capsys):
    base, out = weights(tmp_path / "base.safetensors"), tmp_path / "o.safetensors"
    before = None
    for bad in places(tmp_path):
        before = before or sorted(path.name for path in tmp_path.iterdir())
        for words in (
            ("merge", base, bad, "--out", out),
            ("merge", bad, base, "--out", out),
            ("agreement", base, base, bad),
            ("apply", base, bad, "--scale", "1", "--out", out),
            ("undo", bad, base, "--scale", "1", "--out", out),
            ("convert", bad, "--out", tmp_path / "converted"),
            ("pool", "show", bad),
            ("pool", "verify", bad),
            ("search", bad),
            ("verify", bad),
            ("evaluate", bad, base),
            ("compare", bad),
            ("audit", bad),
            ("sweep", "--scene", f"{bad}.toml", "--grid", "tiny", "--out", tmp_path / "p"),
        ):
            refused(capsys, *words)
        for call in (lambda bad=bad: grid(bad), lambda bad=bad: read_indices(bad), lambda bad=bad: open_scene(bad)):
            with pytest.raises(NegmergeError):
                call()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_whose_name_is_not_utf8_works(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    base, candidate = weights(folder / "base.safetensors"), weights(folder / "c.safetensors", 2.0)
    assert main(["merge", str(base), str(candidate), "--out", str(folder / "u.safetensors")]) == 0
    assert main(["merge", str(base), str(candidate), "--out", str(folder / "u.safetensors"), "--json"]) == 0
    torch.save({"w": torch.ones(1)}, folder / "a.pt")
    assert main(["convert", str(folder / "a.pt"), "--out", str(folder)]) == 0
    assert r"caf\udce9" in capsys.readouterr().out
    assert (folder / "u.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["sur", "emp"])
def test_names_and_shapes_that_no_tensor_has(name, tmp_path, capsys):
    base, first, second = (CASES / f"{name}_{part}.safetensors" for part in ("base", "a", "b"))
    assert "_base.safetensors" in refused(capsys, "merge", base, first, second, "--out", tmp_path / "u.safetensors")
    assert not [*tmp_path.iterdir()]


def test_nobody_writes_what_nobody_can_read(tmp_path):
    for name in ("__metadata__", "a\ud800", "a\0"):
        tensors = {name: torch.ones(1)}
        with pytest.raises(CheckpointError, match="called"):
            save_checkpoint(tmp_path / "a.safetensors", tensors.items(), like=tensors)
    assert not [*tmp_path.iterdir()]


DEEP = "[" * 100_000
VALUES = {
    "deep": DEEP,
    "deep tables": '{"a":' * 100_000,
    "a long number": "9" * 5000,
    "not a number": "NaN",
    "infinite": "1e999",
    "half a pair": '"\\ud800"',
    "NUL": '"\\u0000"',
    "twice": '{"a": 1, "a": 2}',
    "a long name": '{"' + "n" * 5000 + '": 1}',
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_json_that_nothing_can_hold(value, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$"):
        parse_json(value)
    (tmp_path / "pool.json").write_text(f'{{"schema": 1, "scene": {value}')
    refused(capsys, "pool", "show", tmp_path)
    (tmp_path / "u.card.json").write_text(value)
    refused(capsys, "verify", tmp_path / "u.card.json")
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {value}}}')
    refused(capsys, "agreement", tmp_path, tmp_path)
    assert len([*tmp_path.iterdir()]) == 3


TOML = {
    "deep": f"a = {DEEP}",
    "deep names": "a" + ".a" * 3000 + " = 1",
    "a long number": "steps = " + "9" * 5000,
    "a long hexadecimal": "steps = 0x" + "f" * 5000,
    "not a number": "steps = nan",
    "NUL": 'title = "\\u0000"',
    "not UTF-8": b'title = "\xff"',
    "no TOML": "]",
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_toml_that_nothing_can_hold(text, tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError, match=r"a\.toml"):
        grid(path)
    with pytest.raises(SceneError, match=r"a\.toml"):
        open_scene(path)


def test_files_of_values_have_a_size(tmp_path):
    for name, read in (("a.json", read_json), ("a.toml", read_toml)):
        (tmp_path / name).write_bytes(b" " * (65 << 20))
        with pytest.raises(ValueError, match="longer"):
            read(tmp_path / name, dict)


def test_a_grid_is_counted_before_it_is_built(tmp_path):
    numbers = ", ".join(map(str, range(1, 1001)))
    path = tmp_path / "g.toml"
    path.write_text(
        "\n".join(
            ["[recipe]", "lr = 0.1", "[vary]"]
            + [f"{name} = [{numbers}]" for name in ("epochs", "batch_size", "warmup", "seed")]
        )
    )
    start = time.monotonic()
    with pytest.raises(ParameterError, match=r"1,000,000,000,000 candidates"):
        grid(path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["scene"].update(retain="shapes"), "scene.retain"),
        (lambda r: r["scene"].update(sets={}), "scene.sets"),
        (lambda r: r["scene"]["sets"][0].pop("fingerprint"), "fingerprint' is missing"),
        (lambda r: r["scene"].update(model=3), "scene.model"),
        (lambda r: r["candidates"][0].update(seconds="long"), r"candidates\[0\].seconds"),
        (lambda r: r["candidates"][0].update(losses=[0.1, None]), r"losses\[1\]"),
        (lambda r: r["candidates"][0].update(scores={"status": "ok"}), "scores"),
        (lambda r: r["candidates"][0].update(id="../a"), "id"),
        (lambda r: r["candidates"].append(r["candidates"][0]), "one id"),
        (lambda r: r["base"].update(file="../base.safetensors"), "outside"),
        (lambda r: r.update(schema={"a": 1}), "schema"),
    ],
)
def test_a_pool_says_which_entry_is_wrong(stand, tmp_path, capsys, change, says):
    record = json.loads(json.dumps(stand.record))
    change(record)
    (tmp_path / "pool.json").write_text(json.dumps(record))
    with pytest.raises(NegmergeError, match=says):
        open_pool(tmp_path)


def test_a_note_of_an_unfinished_candidate_names_no_other_file(stand, tmp_path):
    """Its file is removed when it cannot be recorded: 0.1 would have removed whatever the note named."""
    (stand.pooled / "pool.json").write_text(json.dumps(stand.record))
    pool = open_pool(stand.pooled)
    folder = stand.pooled / "unfinished"
    folder.mkdir()
    entry = stand.record["candidates"][0] | {"file": "../c.safetensors"}
    (folder / "a.json").write_text(json.dumps(entry))
    assert pool.problem(Candidate.from_json(entry)) is None  # the file is there and has that hash
    assert find_written(pool, "a") is None


def delta_with(stand, path, change, layout):
    data = stand.delta.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    record = json.loads(header["__metadata__"]["negmerge"])
    change(record)
    layout(header)
    header["__metadata__"]["negmerge"] = json.dumps(record)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        (lambda r: r.update(scale="1"), lambda h: None),
        (lambda r: r.update(scale=-1.0), lambda h: None),
        (lambda r: r.update(shapes=[]), lambda h: None),
        (lambda r: r["shapes"].update({"b": [-5]}), lambda h: None),
        (lambda r: r["shapes"].update({"b": [2**62, 2**62]}), lambda h: None),
        (lambda r: r["shapes"].update({"b": [500]}), lambda h: None),
        (lambda r: r["shapes"].update({"x": [5]}), lambda h: None),
        (lambda r: None, lambda h: h["b#values"].update(dtype="I32")),
        (lambda r: None, lambda h: h["b#values"].update(shape=[5, 1])),
        (lambda r: None, lambda h: h["b#base"].update(shape=[1, 5])),
    ],
)
def test_a_damaged_delta_is_named(stand, tmp_path, capsys, change, layout):
    path = delta_with(stand, tmp_path / "d.safetensors", change, layout)
    said = refused(capsys, "undo", stand.unlearned, path, "--scale", "1", "--out", tmp_path / "o.safetensors")
    assert "d.safetensors" in said and "damaged delta" in said


def test_own_images_pass_over_pipes_and_links_that_lead_back(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        for split in ("train", "val", "test"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "d" / split / name / "1.png")
    os.mkfifo(tmp_path / "d" / "train" / "cat" / "2.png")
    (tmp_path / "d" / "train" / "dog" / "back").symlink_to(tmp_path / "d" / "train")
    source = find_data(f"folder:{tmp_path / 'd'}")
    from negmerge_kit.data.folder import list_images

    rows = list_images(tmp_path / "d" / "train", ("cat", "dog"), complete=True)
    assert [Path(file).name for file in rows.files].count("1.png") >= 2 and len(rows.files) < 5
    assert not any(file.endswith("2.png") for file in rows.files) and source.name
    (tmp_path / "d" / "train" / "cat" / os.fsdecode(b"\xff.png")).touch()
    with pytest.raises(SceneError, match="UTF-8"):
        list_images(tmp_path / "d" / "train", ("cat", "dog"), complete=True)


def test_schemas_name_the_entry_and_the_value():
    kind = {"a": int, "b?": [str], "c": {...: (int, float)}, "d?": lambda found: found == 3}
    assert checked({"a": 1, "c": {"x": 1.5}}, kind)
    good = {"a": 1, "c": {}}
    for found, says in [
        ({}, "'a' is missing"),
        (good | {"a": True}, "'a' is True"),
        (good | {"c": {"x": ""}}, r"c\.x"),
        (good | {"b": [1]}, r"b\[0\]"),
        (good | {"d": 4}, "'d' is 4"),
        ([], "no such"),
    ]:
        with pytest.raises(ValueError, match=says):
            checked(found, kind)
