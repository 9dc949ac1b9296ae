"""Checkpoints as people really have them: wrapped names, other dtypes, buffers that came or went, tied weights."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.checkpoints.merge_files import agreement_files, merge_files
from negmerge_kit.cli import main
from negmerge_kit.errors import MismatchError, NegmergeError, NotFiniteError, ParameterError
from negmerge_kit.merging import merge, unlearn
from negmerge_kit.merging.layout import MERGING
from negmerge_kit.sweeps.merge_job import merge_sharded
from tests.checkpoints.files import sharded
from tests.merging.models import make

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases"
SHAPES = {"blocks.0.w": (7, 5), "blocks.0.b": (5,), "blocks.1.w": (7, 5), "head.w": (3, 7)}


@pytest.fixture
def model():
    base, candidates = make(2, seed=8, shapes=SHAPES)
    return base, candidates


def write(folder, base, candidates):
    paths = []
    for name, weights in zip(("base", "a", "b", "c"), (base, *candidates), strict=False):
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / f"{name}.safetensors")
        paths.append(folder / f"{name}.safetensors")
    return paths[0], paths[1:]


def merged(base, candidates, folder, **options):
    out = folder / "u.safetensors"
    return merge_files(base, candidates, out=out, **options), dict(open_checkpoint(out))


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(bits(found[x]), bits(expected[x])) for x in expected)


def named(weights, change):
    return {change(name): tensor for name, tensor in weights.items()}


WRAPPED = {
    "module": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "the other way": lambda name: f"_orig_mod.module.{name}",
    "model": lambda name: f"model.{name}",
    "tower": lambda name: f"vision_model.{name}",
    "deep": lambda name: f"module.model.vision_model.{name}",
    "inside": lambda name: name.replace("blocks.0.", "blocks.0._orig_mod."),
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("side", ["base", "candidates", "one candidate"])
def test_wrappers_and_prefixes_are_found_reported_and_the_base_keeps_its_names(model, tmp_path, wrap, side):
    base, candidates = model
    change = WRAPPED[wrap]
    expected = dict(unlearn(base, candidates, scale=1.0))
    if side == "base":
        base, expected = named(base, change), named(expected, change)
    else:
        candidates = [named(one, change) if k == 0 or side == "candidates" else one for k, one in enumerate(candidates)]
    result, found = merged(*write(tmp_path, base, candidates), tmp_path)
    assert same(found, expected)
    assert len(result["notes"]) == 1 and "names read" in result["notes"][0]
    assert agreement_files(*write(tmp_path, base, candidates))["moved"] == result["moved"] > 0


def test_shards_read_names_as_one_file_does(model, tmp_path):
    base, candidates = model
    _, paths = write(tmp_path, base, [named(one, WRAPPED["both"]) for one in candidates])
    index = sharded(tmp_path, base, 2, stem="parts")
    result = merge_sharded(index, paths, out=tmp_path / "u.safetensors", executor="serial")
    found = dict(open_checkpoint(tmp_path / "u.safetensors.index.json"))
    assert same(found, dict(unlearn(base, candidates, scale=1.0)))
    assert len(result["notes"]) == 1


def test_what_does_not_match_is_counted_on_each_side_with_names_of_both(model, tmp_path):
    base, candidates = model
    other = {**candidates[0], "x.w": torch.ones(2), "y.w": torch.ones(2)}
    del other["head.w"]
    first, paths = write(tmp_path, base, [other, candidates[1]])
    with pytest.raises(MismatchError) as told:
        merge_files(first, paths)
    mine, theirs = "1 of 5 tensors are in {} only (head.w)", "2 of 6 tensors are in {} only (x.w, y.w)"
    assert f"{mine.format(first)}; {theirs.format(paths[0])}" in str(told.value) and "--ignore" in str(told.value)


def test_a_renaming_is_recognised_and_done_by_a_map(model, tmp_path, capsys):
    base, candidates = model

    def renamed(name):
        return name.replace("blocks.", "layers.").replace("head.w", "fc.weight")

    first, paths = write(tmp_path, base, [named(one, renamed) for one in candidates])
    with pytest.raises(MismatchError, match=r"shapes are the same.*--map FILE.*layers\.0\.b = blocks\.0\.b"):
        merge_files(first, paths)
    rename = tmp_path / "map.txt"
    rename.write_text("# theirs = ours\nlayers. = blocks.\nfc.weight = head.w\n")
    out = tmp_path / "u.safetensors"
    assert main(["merge", str(first), *map(str, paths), "--out", str(out), "--map", str(rename)]) == 0
    assert same(dict(open_checkpoint(out)), dict(unlearn(base, candidates, scale=1.0)))
    for text in ("layers = ", "a. = b", "nothing", "", "q = r\nq = s", "zzz. = blocks."):
        rename.write_text(text)
        assert main(["merge", str(first), *map(str, paths), "--out", str(out), "--map", str(rename)]) == 2, text
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_candidates_in_half_precision_merge_in_float32_and_the_base_keeps_its_dtype(model, tmp_path, dtype):
    base, candidates = model
    narrow = [
        {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in one.items()}
        for one in candidates
    ]
    wide = [
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in one.items()}
        for one in narrow
    ]
    small = sum(
        int(((one[name].float() != base[name]) & (base[name].to(dtype) == one[name])).sum())
        for one in narrow
        for name in base
        if base[name].is_floating_point()
    )
    assert small > 0
    paths = write(tmp_path, base, narrow)
    with pytest.warns(UserWarning, match=rf"half precision.*{small:,} of .* smaller than half a step"):
        result, found = merged(*paths, tmp_path)
    assert result["below_half_step"] == small
    assert same(found, dict(unlearn(base, wide, scale=1.0))) and found["head.w"].dtype is torch.float32
    with pytest.warns(UserWarning, match="half precision"):
        assert agreement_files(*paths)["below_half_step"] == small
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merged(*write(tmp_path, base, wide), tmp_path)[0]["below_half_step"] == 0


def test_buffers_that_came_or_went_are_left_alone_and_reported(model, tmp_path):
    base, candidates = model
    ids, frequencies = torch.arange(6).reshape(1, 6), torch.rand(4)
    expected = dict(unlearn(base, candidates, scale=1.0))
    result, found = merged(
        *write(tmp_path, base, [{**one, "e.position_ids": ids, "r.inv_freq": frequencies} for one in candidates]),
        tmp_path,
    )
    assert same(found, expected) and "e.position_ids, r.inv_freq" in result["notes"][0]
    result, found = merged(
        *write(tmp_path, {**base, "e.position_ids": ids, "r.inv_freq": frequencies}, candidates), tmp_path
    )
    assert same(found, {**expected, "e.position_ids": ids, "r.inv_freq": frequencies})
    assert "stay the base's: e.position_ids, r.inv_freq" in result["notes"][0]


def test_tied_weights_stored_once_or_twice_stay_tied(model, tmp_path):
    base, candidates = model
    expected = dict(unlearn(base, candidates, scale=1.0))
    twice = [{**one, "lm.w": one["head.w"].clone()} for one in candidates]
    result, found = merged(*write(tmp_path, base, twice), tmp_path)
    assert same(found, expected) and "stored twice, left out: lm.w" in result["notes"][0]
    result, found = merged(*write(tmp_path, {**base, "lm.w": base["head.w"].clone()}, candidates), tmp_path)
    assert same(found, {**expected, "lm.w": expected["head.w"]}) and "stored once" in result["notes"][0]
    untied = [{**one, "lm.w": one["head.w"] + 1} for one in candidates]
    with pytest.raises(MismatchError, match=r"lm\.w"):
        merge_files(*write(tmp_path, base, untied))


def test_ignored_names_stay_the_base_s_whatever_they_hold(model, tmp_path):
    base, candidates = model
    base["mask"] = torch.full((3,), -torch.inf)
    odd = [{**one, "mask": torch.full((2,), torch.nan), "more": torch.ones(1)} for one in candidates]
    paths = write(tmp_path, base, odd)
    result, found = merged(*paths, tmp_path, ignore=["mask", "mo*"])
    plain = [{name: tensor for name, tensor in one.items() if name not in ("mask", "more")} for one in odd]
    ours = {name: tensor for name, tensor in base.items() if name != "mask"}
    assert same(found, {**dict(unlearn(ours, plain, scale=1.0)), "mask": base["mask"]})
    assert "ignored, so they stay the base's: mask" in result["notes"]
    assert agreement_files(*paths, ignore=["mask", "mo*"])["moved"] == result["moved"]
    with pytest.raises(ParameterError, match=r"--ignore zzz meets no tensor"):
        merge_files(*paths, ignore=["mask", "mo*", "zzz"])


def test_nan_names_the_file_and_the_flag_as_one_types_it(model, tmp_path):
    base, candidates = model
    candidates[1]["head.w"][0, 0] = torch.nan
    first, paths = write(tmp_path, base, candidates)
    with pytest.raises(NotFiniteError) as told:
        merge_files(first, paths)
    assert str(told.value).startswith("head.w") and str(paths[1]) in str(told.value)
    assert str(paths[0]) not in str(told.value) and "--nonfinite pass" in str(told.value)
    base["head.w"][0, 0] = torch.inf
    first, paths = write(tmp_path, base, [candidates[0]])
    with pytest.raises(NotFiniteError, match=r"base\.safetensors: keep the base's with --ignore head\.w"):
        merge_files(first, paths)


def test_one_vote_twice_is_refused_by_name_by_bytes_and_by_object(model, tmp_path):
    base, candidates = model
    first, (one, two) = write(tmp_path, base, candidates)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(one.read_bytes())
    for work in (merge_files, agreement_files):
        for twice in ([one, two, one], [one, copy]):
            with pytest.raises(ParameterError, match="two votes of one model"):
                work(first, twice)
        with pytest.raises(ParameterError, match="base itself"):
            work(first, [one, first])
    with pytest.raises(ParameterError, match="candidates 1 and 3"):
        merge(base, [candidates[0], candidates[1], candidates[0]])
    with pytest.raises(ParameterError, match="two votes"):
        merge(base, [candidates[0], dict(candidates[0])])
    near = tmp_path / "near.safetensors"
    data = bytearray(one.read_bytes())
    data[-1] ^= 1
    near.write_bytes(data)
    assert merge_files(first, [one, near])["moved"] > 0


def values(dtype, moved):
    plain = torch.tensor([1, 0, 1, 1]) if dtype is torch.bool else torch.tensor([1.0, 2.0, 3.0, 4.0])
    return (plain.roll(1) if moved else plain).to(dtype)


def table():
    """The rows of docs/checkpoints.md: dtype to what becomes of it where a candidate's differs."""
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9_, `]+)` \| (merged|copied) \|", text, re.M)
    return {name: kind for names, kind in rows for name in re.findall(r"[a-z0-9_]+", names)}


STORED = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "complex64",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
]


@pytest.mark.filterwarnings("ignore:weights are stored in half precision")
@pytest.mark.parametrize("name", STORED)
def test_every_dtype_does_as_the_table_says(tmp_path, name):
    dtype, kind = getattr(torch, name), table()[name]
    base = {"x": values(dtype, moved=False), "w": torch.zeros(3)}
    still = [{"x": values(dtype, moved=False), "w": torch.full((3,), step)} for step in (1.0, 2.0)]
    moved = [{**one, "x": values(dtype, moved=True)} for one in still]
    assert (kind == "merged") == (dtype in MERGING)
    _, found = merged(*write(tmp_path, base, still), tmp_path)
    assert torch.equal(found["x"].view(torch.uint8), base["x"].view(torch.uint8)) and float(found["w"][0]) == -1.5
    paths = write(tmp_path, base, moved)
    if kind == "merged":
        assert not torch.equal(merged(*paths, tmp_path)[1]["x"], base["x"])
        return
    for work in (lambda: merge_files(*paths), lambda: agreement_files(*paths), lambda: dict(merge(base, moved))):
        with pytest.raises(MismatchError, match=rf"x, which is {name} and does not merge: .*--ignore"):
            work()
    assert same({**merged(*paths, tmp_path, ignore=["x"])[1], "x": base["x"]}, {"x": base["x"], "w": found["w"]})


def test_the_table_names_every_dtype_once():
    assert sorted(table()) == sorted(STORED)


def test_float8_files_are_refused_with_the_remedy(capsys, tmp_path):
    paths = [str(CASES / f"f8_{name}.safetensors") for name in ("base", "a", "b")]
    assert main(["merge", *paths, "--out", str(tmp_path / "u.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "float8" in told and "bfloat16 or float32" in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "u.safetensors").exists()


@pytest.mark.parametrize(
    "odd", [{1: torch.ones(2)}, {"w": [1.0]}, {"w": torch.ones(2).to_sparse()}, {"w": torch.ones(2, device="meta")}]
)
def test_names_are_text_and_entries_are_plain_tensors(odd):
    with pytest.raises(NegmergeError, match="named by text|no tensor|give a plain one"):
        merge(odd, [dict(odd)])
