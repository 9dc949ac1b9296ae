"""Weights that a visitor sends: a base and candidates become a pool; what is no safetensors file becomes nothing."""

import json
import os
import pickle
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from negmerge_kit.app.own_weights import check_weights
from negmerge_kit.app.pages import candidates
from negmerge_kit.app.pages.finetune import FAMILY, OWN, FinetunePage
from negmerge_kit.errors import NegmergeError
from negmerge_kit.pools.pool import open_pool

from .drawings import drawings, zipped
from .tuning import tunes_in


@pytest.fixture
def page(home):
    return FinetunePage(tunes_in(home))


def arrive(home, source, name):
    place = home / "arrived" / name.removesuffix(".safetensors")
    place.mkdir(exist_ok=True)
    return str(shutil.copy(source, place / name))


def answer(page, *values):
    return list(page.choose("me", *values))[-1]


@pytest.mark.slow
def test_a_base_and_candidates_of_ones_own_become_a_pool(page, home, tiny_pool):
    pool = open_pool(tiny_pool)
    base = arrive(home, pool.folder / pool.base_file.file, "base.safetensors")
    tuned = [arrive(home, pool.folder / entry.file, f"run-{k}.safetensors") for k, entry in enumerate(pool.entries[:2])]
    html, id = answer(page, FAMILY, None, None, None, "", [], "digits", base, tuned, "negmerge-tiny")
    assert "2 candidates are there" in html
    made = open_pool(home / "cache" / "pools" / id)
    assert made.verify() == [] and made.scene["forget"] == "digits"
    # The very weights that were sent, with the scores that they have in the pool they come from.
    for entry, ours in zip(pool.entries, made.entries, strict=False):
        assert ours.scores == entry.scores
        assert all(tensor.equal(made.candidate(ours.id)[name]) for name, tensor in pool.candidate(entry.id).items())
    assert candidates.line(made.entries[0]).replace(candidates.SPACE, " ").startswith("               run-0 ")
    assert page.tunes.pools.added == [made.folder] and page.begun()[0][1] == id
    assert [path for path in (home / "arrived").rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_a_wrapped_base_of_ones_own_is_the_same_base(page, home, tiny_pool):
    pool = open_pool(tiny_pool)
    wrapped = home / "wrapped.safetensors"
    save_file({f"module._orig_mod.{name}": tensor for name, tensor in pool.base.items()}, wrapped)
    base = arrive(home, wrapped, "base.safetensors")
    tuned = [arrive(home, pool.folder / pool.entries[0].file, "run.safetensors")]
    _, id = answer(page, FAMILY, None, None, None, "", [], "digits", base, tuned, "negmerge-tiny")
    made = open_pool(home / "cache" / "pools" / id)
    assert made.entries[0].scores == pool.entries[0].scores and {*made.base} == {*pool.base}


def test_candidates_that_are_copies_of_each_other_are_refused(page, home, tiny_pool):
    pool = open_pool(tiny_pool)
    base = arrive(home, pool.folder / pool.base_file.file, "base.safetensors")
    tuned = [arrive(home, pool.folder / pool.entries[0].file, f"run-{k}.safetensors") for k in range(2)]
    with pytest.raises(NegmergeError, match=r"'run-1.safetensors' is 'run-0.safetensors' again, byte for byte"):
        answer(page, FAMILY, None, None, None, "", [], "digits", base, tuned, "negmerge-tiny")
    base = arrive(home, pool.folder / pool.base_file.file, "base.safetensors")
    again = arrive(home, base, "tuned.safetensors")
    with pytest.raises(NegmergeError, match=r"'tuned.safetensors' is 'base.safetensors' again, byte for byte"):
        answer(page, FAMILY, None, None, None, "", [], "digits", base, [again], "negmerge-tiny")


def test_a_base_of_ones_own_can_forget_images_of_ones_own(page, home, tiny_pool):
    base = arrive(home, tiny_pool / "base.safetensors", "mine.safetensors")
    images = str(zipped(home / "arrived" / "a.zip", drawings(8)))
    _, id = answer(page, OWN, images, None, None, "stripes", ["colours"], "", base, None, "negmerge-tiny")
    plan = page.tunes.plans.read(id)
    assert plan.scene.model["pretrained"] == str(plan.folder / "base.safetensors") and plan.candidates == 0
    assert open_pool(plan.folder).base_file.sha256


class Evil:
    def __reduce__(self):
        return os.system, ("touch was-here",)


def headed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BAD = {
    "empty": b"",
    "text": b"hello world, I am no weights",
    "pickle": pickle.dumps(Evil()),
    "torch": b"PK\3\4" + bytes(200),
    "longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "whole header": struct.pack("<Q", 11 << 20) + b" " * (11 << 20),
    "no json": headed(b"{" * 100),
    "deep": headed(b"[" * 100_000),
    "list": headed([]),
    "twice": headed(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"a",
    ),
    "huge": headed({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"abcd"),
    "negative": headed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
    "past the end": headed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"abcd"),
    "html behind": headed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd<html>"),
    "nan": headed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, struct.pack("<f", float("nan"))),
    "other model": headed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_base_is_refused_and_leaves_nothing(page, home, kind, monkeypatch):
    monkeypatch.chdir(home)
    file = home / "arrived" / "base.safetensors"
    file.write_bytes(BAD[kind])
    with pytest.raises(NegmergeError) as error:
        answer(page, FAMILY, None, None, None, "", [], "digits", str(file), None, "negmerge-tiny")
    said = str(error.value)
    assert ": " in said and str(home) not in said and len(said) < 600
    assert not (home / "was-here").exists() and not file.exists()
    assert list((home / "cache").rglob("*.safetensors")) == [] and page.begun() == []


def test_candidates_of_another_model_are_refused(home, tiny_pool, tmp_path):
    base = load_file(tiny_pool / "base.safetensors")
    first = next(iter(base))
    like = check_weights(tiny_pool / "base.safetensors")
    for name, changed in {
        "less.safetensors": {key: value for key, value in base.items() if key != first},
        "shape.safetensors": {**base, first: torch.zeros(3)},
        "dtype.safetensors": {**base, first: base[first].int()},
    }.items():
        save_file(changed, tmp_path / name)
        with pytest.raises(NegmergeError, match=f"'{name}' does not hold the base's tensors"):
            check_weights(tmp_path / name, like)


@pytest.mark.slow
def test_candidates_need_a_base_and_an_architecture_that_is_a_name(page, home, tiny_pool):
    with pytest.raises(NegmergeError, match="send it, too"):
        answer(page, FAMILY, None, None, None, "", [], "digits", None, ["x"], "negmerge-tiny")
    for arch in ("", "../x", None, 7, "x" * 99, "ViT-B-32", "no-such-model"):
        base = arrive(home, tiny_pool / "base.safetensors", "base.safetensors")
        with pytest.raises(NegmergeError) as error:
            answer(page, FAMILY, None, None, None, "", [], "digits", base, None, arch)
        assert str(home) not in str(error.value)
    assert page.begun() == []
