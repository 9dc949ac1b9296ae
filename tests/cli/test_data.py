"""`negmerge data` as a user meets it: what it tells first, what it makes, what it checks."""

import json

import pytest

from negmerge_kit.cli import main
from negmerge_kit.data import DATASETS
from negmerge_kit.data.embedded import FAMILIES
from tests.data.pictures import COMMIT, hub_repository, write_folder, write_parquet


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    return write_folder(tmp_path / "pets", (10, 10, 10))


def run(capsys, *words):
    code = main(["data", *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_list_names_every_set_with_size_and_licence(capsys):
    code, out, _ = run(capsys, "list", "--json")
    listed = {entry["name"]: entry for entry in json.loads(out)["data"]}
    assert code == 0 and set(listed) == set(DATASETS) | set(FAMILIES) | {"scans"}
    assert all(entry[key] for entry in listed.values() for key in ("licence", "title", "class_names", "classes"))
    assert listed["sun397"]["classes"] == 397 and listed["imagenet"]["splits"] == ["val", "test"]
    code, out, _ = run(capsys, "list")
    assert code == 0 and "Stanford Cars" in out and "folder:PATH" in out


def test_prepare_then_verify(capsys, pets, tmp_path):
    code, out, err = run(capsys, "prepare", f"folder:{pets}", "digits", "--size", "16")
    assert code == 0 and "licence      your own" in out and str(tmp_path / "cache") in out
    assert "about 23.0 kB (30 images of 16 x 16)" in out
    assert "train" in out and "24 images, 3 classes" in out
    code, out, _ = run(capsys, "prepare", f"folder:{pets}", "--size", "16", "--json")
    told = json.loads(out)["data"][0]
    assert {split: part["n"] for split, part in told["decoded"].items()} == {"train": 24, "val": 3, "test": 3}
    code, out, _ = run(capsys, "verify", f"folder:{pets}", "digits", "--size", "16")
    assert code == 0 and "train, val, test: as they were decoded" in out
    pixels = next((tmp_path / "cache").rglob("val.u8"))
    pixels.write_bytes(bytes(len(pixels.read_bytes())))
    code, _, err = run(capsys, "verify", f"folder:{pets}", "--size", "16")
    assert code == 2 and "its SHA-256 differs" in err and err.count("\n") == 1


def test_by_the_preprocessing_of_a_model_and_only_some_splits(capsys, pets):
    code, out, _ = run(capsys, "prepare", f"folder:{pets}", "--model", "tiny", "--splits", "val,test", "--json")
    assert code == 0 and set(json.loads(out)["data"][0]["decoded"]) == {"val", "test"}
    code, out, _ = run(capsys, "verify", f"folder:{pets}", "--size", "32", "--json")
    assert code == 0 and json.loads(out)["data"][0]["splits"] == {"val": True, "test": True}


def test_a_dry_run_tells_and_does_nothing(capsys, pets, tmp_path):
    code, out, _ = run(capsys, "prepare", f"folder:{pets}", "--dry-run")
    assert code == 0 and "224 x 224" in out and not (tmp_path / "cache").exists()


def test_corrupt_images_are_refused_or_named(capsys, pets):
    (pets / "cat" / "1.png").write_bytes(b"broken")
    code, _, err = run(capsys, "prepare", f"folder:{pets}", "--size", "16")
    assert code == 2 and "cat/1.png" in err and "--corrupt skip" in err
    code, _, err = run(capsys, "prepare", f"folder:{pets}", "--size", "16", "--corrupt", "skip")
    assert code == 0 and "1 images of pets" in err and "cat/1.png" in err


def test_a_hub_set_tells_commit_and_destination_first(capsys, pets, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_repository(
        tmp_path / "hub", "owner/cats", lambda folder: write_parquet(folder / "data/train-00000-of-00001.parquet", 30)
    )
    code, out, _ = run(capsys, "prepare", "hf:owner/cats", "--size", "16")
    assert code == 0 and COMMIT in out and "nothing, all files are there" in out and str(tmp_path / "hub") in out
    assert out.index("licence") < out.index("24 images")
    code, out, _ = run(capsys, "verify", "hf:owner/cats", "--size", "16")
    assert code == 0 and f"hf:owner/cats@{COMMIT}: train, val, test" in out
    code, _, err = run(capsys, "verify", "hf:owner/cats", "--size", "20")
    assert code == 2 and "is not prepared at 20 x 20" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say what to do with data: list, check, prepare or verify"),
        (("fetch",), "say what to do with data"),
        (("prepare", "numbers"), "data 'numbers' is not known: choose one of cars, dtd"),
        (("prepare", "digits", "--splits", "pretrain"), "choose one of train, val, test"),
        (("prepare", "digits", "--size", "0"), "cannot be made"),
        (("prepare", "digits", "--model", "nope"), "'nope' is neither a file nor an open_clip architecture"),
        (("verify", "hf:a/b/c/d"), "is not known"),
    ],
)
def test_wrong_input_is_one_line(capsys, words, told):
    code, _, err = run(capsys, *words)
    assert code == 2 and told in err and err.count("\n") == 1


def test_check_names_twins_and_odd_files(capsys, pets):
    from PIL import Image

    (pets / "dog" / "copy.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    (pets / "eel" / "broken.png").write_bytes(b"no image")
    Image.new("CMYK", (8, 8)).save(pets / "eel" / "print.jpg")
    code, out, _ = run(capsys, "check", f"folder:{pets}", "--json")
    report = json.loads(out)
    exact = {name for pair in report["twins"] for two in pair["exact"] for name in two}
    assert code == 0 and exact == {"cat/0.png", "dog/copy.png"}
    assert report["files"][0]["modes"] == {".": {"RGB": 31, "CMYK": 1, "unreadable": 1}}
    assert sum(each["n"] for each in report["sets"]) == 32
    code, out, _ = run(capsys, "check", f"folder:{pets}")
    assert code == 0 and "copy.png" in out and "1 cannot be decoded" in out and "1 CMYK" in out


def test_a_test_folder_without_a_class_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "pets" / "train", (10, 10, 10))
    write_folder(tmp_path / "pets" / "test", (2, 0, 2))
    code, _, err = run(capsys, "check", f"folder:{tmp_path / 'pets'}")
    assert code == 2 and "class 'dog' in" in err and "has no image: add some" in err
