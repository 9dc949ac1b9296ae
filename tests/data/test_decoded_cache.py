"""Decoding once: mapped, resumable, one sentence when an image or the disk fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from negmerge_kit.data import decoded_cache, find_data
from negmerge_kit.data.decoded_cache import DecodedSplit
from negmerge_kit.errors import ParameterError, SceneError
from tests.data.pictures import write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_cache, "CHUNK", 4)
    return write_folder(tmp_path / "pets", (14, 14, 14))


def source(pets):
    return find_data(f"folder:{pets}")


def clean(pets, monkeypatch, split="train"):
    """The fingerprint of a run that nothing disturbed."""
    monkeypatch.setenv("NEGMERGE_CACHE", str(pets.parent / "undisturbed"))
    made = source(pets).images(split, image_size=8).fingerprint()
    monkeypatch.setenv("NEGMERGE_CACHE", str(pets.parent / "cache"))
    return made


def run(code, pets, **environment):
    settings = {**os.environ, "NEGMERGE_CACHE": str(pets.parent / "cache"), "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=settings, capture_output=True, text=True)


def test_pixels_are_mapped_and_a_caller_cannot_change_them(pets):
    first = source(pets).images("train", image_size=8)
    before = first.images.clone()
    first.images.zero_()
    assert torch.equal(source(pets).images("train", image_size=8).images, before)
    assert source(pets).verify(image_size=8) == {"train": None}


def test_what_is_decoded_is_not_decoded_again(pets, monkeypatch):
    source(pets).images("train", image_size=8)
    monkeypatch.setattr(DecodedSplit, "_decode", lambda *_: pytest.fail("decoded again"))
    source(pets).images("train", image_size=8)
    for other in (lambda: source(pets).images("val", image_size=8), lambda: source(pets).images("train", image_size=9)):
        with pytest.raises(pytest.fail.Exception, match="decoded again"):
            other()


def test_two_at_a_time_decode_once(pets, monkeypatch):
    calls, decode = [], DecodedSplit._decode
    monkeypatch.setattr(DecodedSplit, "_decode", lambda *given: calls.append(1) or decode(*given))
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: source(pets).decode("train", image_size=8), range(2))
    assert one == two and len(calls) == 1


@pytest.mark.slow
def test_a_kill_costs_one_chunk_at_most(pets, monkeypatch):
    expected = clean(pets, monkeypatch)
    code = f"""
        import os, signal
        from negmerge_kit.data import decoded_cache, find_data
        decoded_cache.CHUNK = 4
        def on_images(done, total):
            if done == 16:
                os.kill(os.getpid(), signal.SIGKILL)
        find_data("folder:{pets}").decode("train", image_size=8, on_images=on_images)
    """
    assert run(code, pets).returncode == -signal.SIGKILL
    seen = []
    record = source(pets).decode("train", image_size=8, on_images=lambda done, total: seen.append(done))
    assert seen[0] in (12, 16) and seen[-1] == len(record.labels) == 34
    assert record.fingerprint == expected
    assert not [path for path in (pets.parent / "cache").rglob("*") if path.suffix in (".part", ".journal")]


@pytest.mark.parametrize("damage", ["cut journal", "no journal", "version 0.1", "short part", "short part, twice"])
def test_whatever_is_left_of_a_killed_run_leads_to_the_same_pixels(pets, monkeypatch, damage):
    expected = clean(pets, monkeypatch)

    def stop(done, total):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source(pets).decode("train", image_size=8, on_images=stop)
    journal = next((pets.parent / "cache").rglob("train.journal"))
    if damage == "cut journal":
        journal.write_text(journal.read_text()[:-9])
    elif damage == "no journal":
        journal.unlink()
    elif damage == "version 0.1":  # a line for each chunk
        journal.write_text(f"{journal.read_text()}\n" * 2)
    else:
        os.truncate(journal.with_suffix(".part"), 100)
    if damage.endswith("twice"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(decoded_cache, "_in_chunks", lambda *_: stop(12, 34))
            source(pets).images("train", image_size=8)
    assert source(pets).images("train", image_size=8).fingerprint() == expected


def test_a_corrupt_image_is_refused_by_name_or_left_out_and_named(pets):
    (pets / "dog" / "3.png").write_bytes(b"\x89PNG broken")
    (pets / "eel" / "4.png").write_bytes((pets / "eel" / "4.png").read_bytes()[:200])
    with pytest.raises(SceneError, match=r"pets/(dog/3|eel/4)\.png of .* cannot be decoded"):
        for split in ("train", "val", "test"):
            source(pets).images(split, image_size=8)
    skipped = {split: source(pets).decode(split, image_size=8, corrupt="skip") for split in ("train", "val", "test")}
    named = sorted(name for record in skipped.values() for name in record.corrupt)
    assert [Path(name).name for name in named] == ["3.png", "4.png"]
    assert sum(len(record.labels) for record in skipped.values()) == 40
    split = next(split for split, record in skipped.items() if record.corrupt)
    with pytest.raises(SceneError, match=r"images that cannot be decoded, .*\.png first"):
        source(pets).images(split, image_size=8)
    images = source(pets).images(split, image_size=8, corrupt="skip")
    assert len(images) == len(skipped[split].indices)
    assert source(pets).described(split, image_size=8, corrupt="skip")["corrupt"] == list(skipped[split].corrupt)
    with pytest.raises(ParameterError, match="choose refuse or skip"):
        source(pets).images("val", image_size=8, corrupt="ignore")


def test_images_behind_a_corrupt_one_keep_their_labels(pets, monkeypatch):
    whole = source(pets).images("train", image_size=8)
    rows = source(pets).decode("train", image_size=8).indices
    bad = [0, 7, 8, 33]
    ordered = [path for name in ("cat", "dog", "eel") for path in sorted((pets / name).iterdir())]
    for place in bad:
        ordered[rows[place]].write_bytes(b"broken")
    kept = [place for place in range(34) if place not in bad]
    monkeypatch.setenv("NEGMERGE_CACHE", str(pets.parent / "second"))
    images = source(pets).images("train", image_size=8, corrupt="skip")
    assert torch.equal(images.images, whole.images[kept]) and torch.equal(images.labels, whole.labels[kept])


def test_a_kill_while_gaps_are_closed_starts_the_split_anew(pets, monkeypatch):
    (pets / "cat" / "0.png").write_bytes(b"broken")
    (pets / "dog" / "0.png").write_bytes(b"broken")
    decode = lambda: source(pets).decode("train", image_size=8, corrupt="skip")  # noqa: E731
    closing = decoded_cache._close_gaps

    def killed(*given):
        closing(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(decoded_cache, "_close_gaps", killed)
    with pytest.raises(KeyboardInterrupt):
        decode()
    monkeypatch.setattr(decoded_cache, "_close_gaps", closing)
    made = decode().fingerprint
    shutil.rmtree(pets.parent / "cache")
    assert decode().fingerprint == made


def test_none_that_can_be_decoded_is_an_error(pets):
    for path in pets.rglob("*.*"):
        path.write_bytes(b"broken")
    with pytest.raises(SceneError, match="none of the 34 train images"):
        source(pets).images("train", image_size=8, corrupt="skip")


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_what_is_decoded_is_kept(pets, monkeypatch):
    expected = clean(pets, monkeypatch)
    # A limit on the size of files instead of a full disk: writing fails at the same place, with an error of the system.
    code = f"""
        import resource
        from negmerge_kit.errors import SceneError
        from negmerge_kit.data import decoded_cache, find_data
        decoded_cache.CHUNK = 4
        source = find_data("folder:{pets}")
        def on_images(done, total):
            if done == 12:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            source.decode("train", image_size=8, on_images=on_images)
        except SceneError as error:
            print(error)
    """
    said = run(code, pets).stdout
    assert "cannot be written to" in said and "free some space, or set NEGMERGE_CACHE" in said and said.count("\n") == 1
    seen = []
    record = source(pets).decode("train", image_size=8, on_images=lambda done, total: seen.append(done))
    assert seen[0] == 12 and record.fingerprint == expected


def test_too_little_space_is_told_before_anything_is_written(pets, monkeypatch):
    usage = shutil.disk_usage(pets)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(SceneError, match=r"need 0\.00 GB, but .* has 0\.00 GB left"):
        source(pets).images("train", image_size=8)


def test_a_folder_that_cannot_be_written_is_one_sentence(pets, monkeypatch):
    (pets.parent / "file").touch()
    monkeypatch.setenv("NEGMERGE_CACHE", str(pets.parent / "file"))
    with pytest.raises(SceneError, match="cannot be written"):
        source(pets).images("train", image_size=8)


def test_verify_reads_every_pixel(pets):
    source(pets).images("train", image_size=8)
    pixels = next((pets.parent / "cache").rglob("train.u8"))
    with pixels.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    assert "is not what was decoded (its SHA-256 differs)" in source(pets).verify(image_size=8)["train"]
    record = pixels.with_suffix(".json")
    record.write_text(record.read_text()[:50])
    assert "is not whole" in source(pets).verify(image_size=8)["train"]


def test_pixels_that_are_cut_short_are_made_again(pets, monkeypatch):
    expected = source(pets).images("train", image_size=8).fingerprint()
    pixels = next((pets.parent / "cache").rglob("train.u8"))
    os.truncate(pixels, 100)
    assert source(pets).images("train", image_size=8).fingerprint() == expected
    assert pixels.stat().st_size == 34 * 3 * 8 * 8
    assert json.loads(pixels.with_suffix(".json").read_text())["fingerprint"] == expected
