"""The Hub's layouts from a local Hub cache: parquet and image folders, labels, commits, and no network."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from PIL import Image

from negmerge_kit.data import DATASETS, find_data
from negmerge_kit.data import hub as hub_module
from negmerge_kit.data.hub import pin_file
from negmerge_kit.data.labels import check_order, class_names
from negmerge_kit.data.splits import draw_splits
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import SceneError
from negmerge_kit.scenes.find import scene_from_json
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from tests.data.pictures import CLASSES, COMMIT, encoded, hub_repository, write_folder, write_parquet
from tests.data.small_hub import small_hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty local Hub cache, with no network behind it."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    return folder


def pets(folder):
    write_parquet(folder / "data/train-00000-of-00002.parquet", 40)
    write_parquet(folder / "data/train-00001-of-00002.parquet", 20, start=40)
    write_parquet(folder / "data/test-00000-of-00001.parquet", 12, start=60)


def fetched(text):
    source = find_data(text)
    source.fetch()
    return source


def test_parquet_gives_the_pixels_labels_and_splits_of_its_rows(hub):
    hub_repository(hub, "owner/pets", pets)
    source = fetched("hf:owner/pets")
    assert source.text == f"hf:owner/pets@{COMMIT}" and source.name == "pets" and source.classes == CLASSES
    for split, rows in draw_splits(60, name="pets").items():
        images = source.images(split, image_size=8)
        # The second file's labels begin anew, as each file was written apart.
        assert images.labels.tolist() == [(row if row < 40 else row - 40) % 3 for row in rows]
        for image, row in zip(images.images, rows, strict=True):
            assert image.numpy().tobytes() == Transform(8, 8)(Image.open(io.BytesIO(encoded(row)))).tobytes()
    assert len(source.images("test", image_size=8)) == 12
    assert source.described("val", image_size=8)["data"] == {"hub": "owner/pets", "config": "", "revision": COMMIT}


@pytest.mark.slow
def test_image_folders_in_the_hubs_layout(hub):
    def tree(folder):
        write_folder(folder / "train", (10, 10, 10))
        write_folder(folder / "validation", (2, 2, 2), start=50)

    hub_repository(hub, "owner/tree", tree)
    source = fetched("hf:owner/tree")
    assert source.classes == CLASSES
    assert [len(source.images(split, image_size=8)) for split in ("train", "val", "test")] == [27, 3, 6]
    assert sorted(source.images("test", image_size=8).labels.tolist()) == [0, 0, 1, 1, 2, 2]


def test_a_set_with_all_three_splits_or_only_one(hub):
    def three(folder):
        for split, count in (("train", 30), ("validation", 6), ("test", 9)):
            write_parquet(folder / f"data/{split}-00000-of-00001.parquet", count)

    hub_repository(hub, "owner/three", three)
    hub_repository(hub, "owner/one", lambda folder: write_parquet(folder / "data/train-00000-of-00001.parquet", 30))
    for name, counts in (("three", [30, 6, 9]), ("one", [24, 3, 3])):
        source = fetched(f"hf:owner/{name}")
        assert [len(source.images(split, image_size=8)) for split in ("train", "val", "test")] == counts


def test_configurations_of_the_readme_are_understood(hub):
    def two(folder):
        write_parquet(folder / "small/train-00000-of-00001.parquet", 20)
        write_parquet(folder / "large/train-00000-of-00001.parquet", 40)
        configs = "".join(
            f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
            for name in ("small", "large")
        )
        (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")

    hub_repository(hub, "owner/two", two)
    assert len(fetched("hf:owner/two/small").images("train", image_size=8)) == 16
    assert len(fetched(f"hf:owner/two/large@{COMMIT}").images("train", image_size=8)) == 32
    with pytest.raises(SceneError, match="cannot be read as images with labels"):
        fetched("hf:owner/two/huge")


# --- named sets -----------------------------------------------------------------------------------


def named(hub, name, labels, *, count=40, **changes):
    entry = DATASETS[name]

    def fill(folder):
        columns = {"image": entry.image, "label": entry.label, **changes}
        for pattern in filter(None, (entry.train, entry.test)):
            write_parquet(folder / f"{pattern[:-1]}00000-of-00001.parquet", count, names=labels, **columns)

    shutil.rmtree(hub / f"datasets--{entry.repo.replace('/', '--')}", ignore_errors=True)
    hub_repository(hub, entry.repo, fill, commit=entry.revision or COMMIT)


@pytest.mark.parametrize("name", [name for name in DATASETS if not name.startswith("imagenet")])
def test_every_named_set_loads_from_its_own_layout(hub, name):
    known = class_names(name)
    assert len(known.classes) == len(set(known.classes)) and all(known.templates) and known.source
    named(hub, name, (known.labels or (known.classes,))[0])
    source = fetched(name)
    assert source.text == f"{name}@{DATASETS[name].revision or COMMIT}"
    assert source.classes == known.classes and all("{}" in template for template in source.templates)
    assert [len(source.images(split, image_size=8)) for split in ("train", "val", "test")] == [36, 4, 40]
    assert source.flips == (name not in ("mnist", "svhn", "gtsrb"))


@pytest.mark.slow
def test_imagenet_and_its_small_control_share_a_repository(hub):
    lemmas = class_names("imagenet").labels[1]  # two of them are called "crane", which the Hub's columns cannot be
    named(hub, "imagenet", [name if name not in lemmas[:i] else f"{name} ({i})" for i, name in enumerate(lemmas)])
    assert [len(fetched("imagenet").images(split, image_size=8)) for split in ("val", "test")] == [4, 40]
    small = fetched("imagenet-small")
    assert [len(small.images(split, image_size=8)) for split in ("val", "test")] == [4, 4]
    with pytest.raises(SceneError, match="has no split 'train'"):
        small.images("train", image_size=8)


def test_labels_in_another_order_are_refused_by_name(hub):
    names = list(class_names("cifar10").classes)
    names[3], names[5] = names[5], names[3]
    named(hub, "cifar10", names)
    with pytest.raises(SceneError, match=r"class 3 is 'dog' there, but 'cat' was expected \('dog' is class 5\)"):
        fetched("cifar10")
    assert not pin_file("uoft-cs/cifar10", "cifar10").exists()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (["cat"] * 3, "has 3 classes, 10 were expected"),
        ([f"thing {i}" for i in "abcdefghij"], "names other classes"),
        ([str(i) for i in (0, 2, 1, 3, 4, 5, 6, 7, 8, 9)], "class 1 is '2' there"),
    ],
)
def test_other_classes_are_refused(found, told):
    with pytest.raises(SceneError, match=told):
        check_order(class_names("cifar10"), found, "here")


def test_spelling_and_plain_numbers_pass():
    names = class_names("sun397").classes
    check_order(class_names("sun397"), [name.replace(" ", "_").upper() for name in names], "here")
    check_order(class_names("gtsrb"), [f"{i:05}" for i in range(43)], "here")
    assert class_names("eurosat").labels[0] == tuple(sorted(class_names("eurosat").labels[0]))


def test_labels_without_names_are_taken_where_the_registry_has_them(hub):
    named(hub, "gtsrb", None)
    source = fetched("gtsrb")
    assert len(source.classes) == 43 and source.images("val", image_size=8).labels.max() <= 2
    hub_repository(hub, "owner/numbers", lambda folder: write_parquet(folder / "train.parquet", 20, names=None))
    with pytest.raises(SceneError, match="no column of class labels with names"):
        fetched("hf:owner/numbers")


def test_parquet_of_another_library_has_no_features_and_loads_all_the_same(hub):
    import pyarrow.parquet

    named(hub, "mnist", class_names("mnist").classes)
    for path in hub.rglob("*.parquet"):
        table = pyarrow.parquet.read_table(path).replace_schema_metadata({})
        path.unlink()
        pyarrow.parquet.write_table(table, path)
    source = fetched("mnist")
    assert source.images("val", image_size=8).labels.max() <= 9 and len(source.images("test", image_size=8)) == 40


def test_a_scene_remembers_the_commit_and_tells_it_where_it_is_not_prepared(hub, tmp_path, monkeypatch):
    hub_repository(hub, "owner/pets", pets)
    fetched("hf:owner/pets")
    scene = ZeroShotScene("own", "tiny", "digits", ("hf:owner/pets",))
    described = scene.describe()
    assert described["retain"] == [f"hf:owner/pets@{COMMIT}"]
    again = scene_from_json(described)
    again.require(described)
    assert again.describe() == described and again.sources[1].name == "pets"
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(SceneError, match=f"run `negmerge data prepare hf:owner/pets@{COMMIT}` first"):
        scene_from_json(described).require(described)
    fetched(f"hf:owner/pets@{COMMIT}")
    scene_from_json(described).require(described)


def test_a_set_without_the_expected_column_is_refused(hub):
    named(hub, "cifar100", class_names("cifar100").classes, label="coarse")
    with pytest.raises(SceneError, match="has no column fine_label: it has img, coarse"):
        fetched("cifar100")


# --- commits --------------------------------------------------------------------------------------


def test_the_commit_that_was_prepared_is_kept_to(hub, monkeypatch):
    hub_repository(hub, "owner/pets", pets)
    before = fetched("hf:owner/pets").images("val", image_size=8).fingerprint()
    # The repository moves on, and its files with it.
    moved = "f" * 40
    hub_repository(hub, "owner/pets", lambda folder: write_parquet(folder / "data/train-0.parquet", 33, start=7), moved)
    source = fetched("hf:owner/pets")
    assert source.revision == COMMIT and source.images("val", image_size=8).fingerprint() == before
    with pytest.raises(SceneError, match=r"prepared at commit 0123456789ab, but f{12} is asked for: .* delete .*pets"):
        fetched(f"hf:owner/pets@{moved}")
    with pytest.raises(SceneError, match="cannot be compared"):
        find_data(f"hf:owner/pets@{moved}").images("val", image_size=8)
    pin_file("owner/pets").unlink()
    assert fetched(f"hf:owner/pets@{moved}").images("val", image_size=8).fingerprint() != before


def test_a_prepared_set_opens_without_its_files(hub):
    hub_repository(hub, "owner/pets", pets)
    before = fetched("hf:owner/pets").images("val", image_size=8).fingerprint()
    shutil.rmtree(hub)
    assert find_data("hf:owner/pets").images("val", image_size=8).fingerprint() == before
    with pytest.raises(SceneError, match="no longer in the Hub cache"):
        find_data("hf:owner/pets").images("val", image_size=9)


def test_nothing_is_fetched_unless_it_is_prepared(hub):
    hub_repository(hub, "owner/pets", pets)
    with pytest.raises(SceneError, match="run `negmerge data prepare hf:owner/pets` first"):
        find_data("hf:owner/pets").images("val", image_size=8)
    with pytest.raises(SceneError, match=r"svhn is not prepared \(about 0.2 GB to download\)"):
        find_data("svhn").images("val", image_size=8)


def test_a_download_that_was_cut_off_is_not_taken_for_whole(hub):
    snapshot = hub_repository(hub, "owner/pets", pets)
    (snapshot / "data/train-00001-of-00002.parquet").unlink()
    with pytest.raises(SceneError, match="HF_HUB_OFFLINE is set"):
        fetched("hf:owner/pets")
    snapshot = hub_repository(hub, "owner/tree", lambda folder: write_folder(folder / "train", (10, 10, 10)))
    (snapshot.parents[1] / "blobs" / "abc.incomplete").touch()
    with pytest.raises(SceneError, match="HF_HUB_OFFLINE is set"):
        fetched("hf:owner/tree")


def test_damaged_and_foreign_files(hub):
    hub_repository(
        hub, "owner/bad", lambda folder: write_parquet(folder / "data/train-00000-of-00001.parquet", 30, broken=(4, 5))
    )
    source = fetched("hf:owner/bad")
    record = source.decode("train", image_size=8, corrupt="skip")
    others = source.decode("val", image_size=8, corrupt="skip"), source.decode("test", image_size=8, corrupt="skip")
    named = [name for part in (record, *others) for name in part.corrupt]
    assert sorted(named) == ["row 4 of train (4.png)", "row 5 of train (5.png)"]

    def cut(folder):
        write_parquet(folder / "data/train-00000-of-00001.parquet", 30)
        path = folder / "data/train-00000-of-00001.parquet"
        path.write_bytes(path.read_bytes()[:500])

    hub_repository(hub, "owner/cut", cut)
    with pytest.raises(SceneError, match="cannot be read as images with labels|is damaged"):
        fetched("hf:owner/cut")
    hub_repository(hub, "owner/text", lambda folder: (folder / "train.jsonl").write_text('{"text": "no image"}\n'))
    with pytest.raises(SceneError, match="no column of images"):
        fetched("hf:owner/text")


# --- no network -----------------------------------------------------------------------------------


def run(code, tmp_path, endpoint):
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "NEGMERGE_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.slow
def test_what_the_hub_serves_is_fetched_once_and_a_cut_download_goes_on(tmp_path):
    pets(tmp_path / "served")
    code = """
        import json, sys, urllib.request, os
        from contextlib import redirect_stderr, redirect_stdout
        from io import StringIO
        from pathlib import Path
        from negmerge_kit.cli import main

        def negmerge(*words):
            with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
                code = main(["data", "prepare", *words, "--size", "8"])
            print(json.dumps([code, out.getvalue(), err.getvalue(), Path(os.environ["NEGMERGE_CACHE"]).exists()]))

        negmerge("hf:owner/pets")
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/heal")
        negmerge("hf:owner/pets")
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/heal")
        negmerge("hf:owner/pets")
        negmerge("hf:owner/none")
    """

    def one_is_whole():
        return any(tmp_path.rglob("snapshots/*/data/*.parquet"))

    with small_hub("owner/pets", tmp_path / "served", COMMIT, stop_after=1, written=one_is_whole) as (endpoint, asked):
        cut, whole, again, none = (json.loads(line) for line in run(code, tmp_path, endpoint))
    assert cut[0] == 2 and COMMIT in cut[1] and "the Hub cannot be reached for owner/pets" in cut[2] and not cut[3]
    assert whole[0] == 0 and "54 images, 3 classes" in whole[1]
    assert again[0] == 0 and "nothing, all files are there" in again[1]
    assert none[0] == 2 and none[2].count("\n") == 1 and "there is no data set owner/none on the Hub" in none[2]
    first, second = (number for number, (_, path) in enumerate(asked) if path == "/heal")
    fetched_later = {path for verb, path in asked[first:second] if verb == "GET" and "/resolve/" in path}
    assert len(fetched_later) == 2, "what was whole before the cut is not fetched again"
    assert not [path for _, path in asked[second:] if "owner/pets" in path], "all is here: nothing is asked"


@pytest.mark.slow
def test_a_network_that_is_not_there_is_one_sentence_at_once(tmp_path):
    code = """
        import sys, time
        from negmerge_kit.cli import main
        started = time.monotonic()
        sys.stderr = sys.stdout
        print(main(["data", "prepare", "mnist"]), time.monotonic() - started < 20)
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        said, outcome = run(code, tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert said.startswith("negmerge data: the Hub cannot be reached for ylecun/mnist (") and outcome == "2 True"
    assert "check the network" in said


def test_a_hub_that_does_not_answer_is_given_up_soon(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(hub_module, "TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(SceneError, match="the Hub cannot be reached for owner/pets"):
            find_data("hf:owner/pets").resolved()
        assert time.monotonic() - started < 10
