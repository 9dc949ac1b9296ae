"""Index n forgets the source's image n, whatever the kit made of the order: the Hub, folders, CIFAR-10, the scans."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from negmerge_kit.data import find_data
from negmerge_kit.data.labels import class_names
from negmerge_kit.data.splits import CIFAR10_BATCHES, draw_splits, original_numbers
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import SceneError
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.find import open_scene, scene_from_json
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scenes.published_split import published_split
from tests.data.pictures import encoded, hub_repository, write_folder, write_parquet

AT = Transform(8, 8)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty local Hub cache, with no network behind it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


def prepared(text):
    find_data(text).prepare(("train", "val", "test"), image_size=AT)
    return text


def seen(data):
    """What the kit makes of the bytes of an image file."""
    return AT(Image.open(io.BytesIO(data))).tobytes()


def shown(images):
    return [image.numpy().tobytes() for image in images.images]


def pets(folder, **more):
    write_parquet(folder / "data/train-00000-of-00002.parquet", 40)
    write_parquet(folder / "data/train-00001-of-00002.parquet", 20, start=40)
    for split, count in {"test": 12, **more}.items():
        write_parquet(folder / f"data/{split}-00000-of-00001.parquet", count, start=70)


def cifar(order):
    """Small files of CIFAR-10's kind, of five batches of 40; picture n is the original's image n."""

    def fill(folder):
        names = class_names("cifar10").classes
        at, labels = folder / "plain_text", original_labels()
        (at / "rows").mkdir(parents=True)
        import datasets

        rows = [40 * (number - 1) + row for number in order for row in range(40)]
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        told = {"img": [{"bytes": encoded(n), "path": f"{n}.png"} for n in rows], "label": [labels[n] for n in rows]}
        datasets.Dataset.from_dict(told, features=features).to_parquet(at / "train-00000-of-00001.parquet")
        write_parquet(at / "test-00000-of-00001.parquet", 20, names=names, image="img", start=900)

    return fill


def original_labels():
    """Each batch begins as the real one does; its other labels take turns."""
    return [int(label) for batch in CIFAR10_BATCHES for label in batch + "0123456789" * 2]


# --- an index is the source's ---------------------------------------------------------------------


def test_an_index_is_a_row_of_the_hubs_training_files(hub):
    hub_repository(hub, "owner/pets", pets)
    data = prepared("hf:owner/pets")
    held = draw_splits(60, name="pets")["val"]
    for row in sorted(set(range(60)) - set(held)):
        parts = Forgetting(data, indices=(row,)).parts(AT)
        assert shown(parts.forgotten) == [seen(encoded(row))] and parts.indices == [row]
        assert seen(encoded(row)) not in shown(parts.remaining) and len(parts.remaining) == 53


def test_an_index_is_a_file_of_the_folder_in_sorted_order(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "pets" / "train", (14, 13, 13))
    write_folder(tmp_path / "pets" / "test", (2, 2, 2), start=50)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert files[2].name == "10.png" and files[14].parent.name == "dog"  # by name, not by number
    data = prepared(f"folder:{tmp_path / 'pets'}")
    held = draw_splits(40, name="pets")["val"]
    for number in sorted(set(range(40)) - set(held)):
        parts = Forgetting(data, indices=(number,)).parts(AT)
        assert shown(parts.forgotten) == [seen(files[number].read_bytes())]


@pytest.mark.parametrize("order", [(4, 3, 2, 5, 1), (1, 2, 3, 4, 5)])
def test_an_index_of_cifar10_is_the_originals_wherever_its_batches_lie(hub, order):
    hub_repository(hub, "uoft-cs/cifar10", cifar(order))
    data = prepared("cifar10")
    train = sorted(find_data(data).numbering(image_size=AT).splits["train"])
    assert len(train) == 180
    for number in train[::20]:
        parts = Forgetting(data, indices=(number,)).parts(AT)
        assert shown(parts.forgotten) == [seen(encoded(number))]
        assert parts.forgotten.labels.tolist() == [original_labels()[number]]
    # The Hub's own rows can be counted too.
    rows = prepared("hf:uoft-cs/cifar10")
    own = sorted(find_data(rows).numbering(image_size=AT).splits["train"])[0]
    first = 40 * (order[0] - 1) + own
    assert shown(Forgetting(rows, indices=(own,)).parts(AT).forgotten) == [seen(encoded(first))]


def test_rows_that_are_not_cifar10s_batches_are_not_numbered_by_guess(hub):
    hub_repository(hub, "uoft-cs/cifar10", cifar((4, 3, 2, 5, 5)))
    data = prepared("cifar10")
    for forgetting in (Forgetting(data, indices=(3,)), Forgetting(data, share=0.1, seed=2, as_published=True)):
        with pytest.raises(SceneError, match="rows of cifar10 are not its five batches.*use hf:uoft-cs/cifar10"):
            forgetting.parts(AT)
    assert len(Forgetting(data, share=0.1).parts(AT).forgotten) == 18


def test_cifar10s_batches_are_known_though_an_image_was_left_out():
    rows = [int(label) for number in (4, 3, 2, 5, 1) for label in CIFAR10_BATCHES[number - 1]]
    numbers = original_numbers(rows)
    assert sorted(numbers) == list(range(100)) and numbers[0] == 60
    rows[0] = rows[45] = -1
    assert original_numbers(rows) == numbers
    for wrong in (rows[1:], [*rows, 3], [3] * 100, [-1] * 100, []):
        with pytest.raises(SceneError, match="not its five batches"):
            original_numbers(wrong)


def test_an_index_of_the_scans_is_scikit_learns():
    digits = load_digits()
    train = find_data("scans").numbering(image_size=8).splits["train"]
    assert len(train) == 1200 == len(set(train))
    parts = Forgetting("scans", indices=tuple(train[5::100])).parts(AT)
    grey = {
        np.round(digits.images[number] * 255 / 16).astype(np.uint8).tobytes(): int(digits.target[number])
        for number in train[5::100]
    }
    assert {
        image[0].numpy().tobytes(): int(label)
        for image, label in zip(parts.forgotten.images, parts.forgotten.labels, strict=True)
    } == grey


# --- held out, absent, left out -------------------------------------------------------------------


def test_indices_that_are_held_out_are_refused_and_counted(hub):
    hub_repository(hub, "owner/pets", pets)
    data = prepared("hf:owner/pets")
    held = draw_splits(60, name="pets")["val"]
    train = next(row for row in range(60) if row not in held)
    told = rf"validation, where every scale is chosen \(indices {held[0]}, {held[1]}\): remove them from the list\.$"
    with pytest.raises(SceneError, match=f"^2 of the 3 images to forget are held out for {told}"):
        Forgetting(data, indices=(held[0], train, held[1])).parts(AT)
    with pytest.raises(SceneError, match=r"^6 of the 60 images .* remove them from the list\.$"):
        Forgetting(data, indices=tuple(range(60))).parts(AT)
    with pytest.raises(SceneError, match="index 60 is not among the 60 images of pets: number them from 0 to 59"):
        Forgetting(data, indices=(train, 60)).parts(AT)


@pytest.mark.parametrize(
    "given, held",
    [
        ((), ("val", "test")),
        (("train", "test"), ("val",)),
        (("train", "val"), ("test",)),
        (("train", "val", "test"), ()),
    ],
)
def test_what_a_folder_does_not_bring_is_held_out_of_its_training_files(tmp_path, monkeypatch, given, held):
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    for number, split in enumerate(given or ("",)):
        write_folder(tmp_path / "pets" / split, (14, 13, 13), start=50 * number)
    data = prepared(f"folder:{tmp_path / 'pets'}")
    drawn = draw_splits(40, held, name="pets")
    for split, purpose in (("val", "validation, where every scale is chosen"), ("test", "the test")):
        if split in held:
            with pytest.raises(SceneError, match=f"^1 of the 1 images to forget are held out for {purpose} "):
                Forgetting(data, indices=(drawn[split][0],)).parts(AT)
    assert Forgetting(data, indices=(drawn["train"][0],)).parts(AT).indices == [drawn["train"][0]]
    if not held:
        assert len(Forgetting(data, indices=tuple(range(39))).parts(AT).forgotten) == 39


def test_a_long_list_of_held_out_indices_is_cut():
    numbering = find_data("scans").numbering(image_size=8)
    with pytest.raises(SceneError, match=r"^240 of the 240 .*\(indices (\d+, ){9}\d+ …\): remove"):
        numbering.places(numbering.splits["val"])
    with pytest.raises(SceneError, match=r"^1 of the 1 images to forget are held out for the test \(indices "):
        numbering.places(numbering.splits["test"][:1])


def test_where_the_data_have_their_own_validation_nothing_is_held_out(hub):
    hub_repository(hub, "owner/own", lambda folder: pets(folder, validation=6))
    data = prepared("hf:owner/own")
    assert set(find_data(data).numbering(image_size=AT).splits) == {"train"}
    for row in range(60):
        assert shown(Forgetting(data, indices=(row,)).parts(AT).forgotten) == [seen(encoded(row))]


def test_an_image_that_was_left_out_moves_no_number(hub):
    def fill(folder):
        write_parquet(folder / "data/train-00000-of-00001.parquet", 60, broken=(7,))
        write_parquet(folder / "data/test-00000-of-00001.parquet", 12, start=60)

    hub_repository(hub, "owner/holes", fill)
    find_data("hf:owner/holes").prepare(("train", "val", "test"), image_size=AT, corrupt="skip")
    held = draw_splits(60, name="holes")["val"]
    assert not {6, 7, 8, 59} & set(held)
    for row in (6, 8, 59):
        parts = Forgetting("hf:owner/holes", indices=(row,)).parts(AT, "skip")
        assert shown(parts.forgotten) == [seen(encoded(row))]
    with pytest.raises(SceneError, match="index 7 of holes is an image that cannot be decoded: remove it"):
        Forgetting("hf:owner/holes", indices=(7,)).parts(AT, "skip")


# --- the published split --------------------------------------------------------------------------


def reference_split(labels, seed, amount):
    """The reference code's steps on its own order of the images: (remaining, forgotten), as original indices."""
    random, held = np.random.RandomState(seed), []
    for label in range(max(labels) + 1):
        of_class = np.where(np.array(labels) == label)[0]
        held += random.choice(of_class, int(0.1 * len(of_class)), replace=False).tolist()
    train = np.array(list(set(range(len(labels))) - set(held)))
    marked = np.random.RandomState(seed - 1).choice(np.arange(len(train)), size=amount, replace=False)
    return set(np.delete(train, marked).tolist()), set(train[marked].tolist())


def test_the_split_as_published_forgets_the_reference_codes_images(hub):
    hub_repository(hub, "uoft-cs/cifar10", cifar((4, 3, 2, 5, 1)))
    parts = Forgetting(prepared("cifar10"), share=0.1, seed=2, as_published=True).parts(AT)
    remaining, forgotten = reference_split(original_labels(), 2, len(parts.forgotten))
    assert parts.indices == sorted(forgotten) and len(forgotten) == 18
    assert shown(parts.forgotten) == [seen(encoded(number)) for number in sorted(forgotten)]
    assert shown(parts.remaining) == [seen(encoded(number)) for number in sorted(remaining)]
    base = sorted(set.union(*reference_split(original_labels(), 1, 10)))
    assert shown(parts.seen) == [seen(encoded(number)) for number in base]


def test_the_split_as_published_of_fifty_thousand_is_the_reference_codes():
    labels = np.random.RandomState(0).permutation(50_000) % 10
    remaining, forgotten = reference_split(labels.tolist(), 2, 4500)
    _, ours, rest, _ = published_split(torch.from_numpy(labels), share=0.1, seed=2)
    assert ours.tolist() == sorted(forgotten) and rest.tolist() == sorted(remaining)


# --- what pools store -----------------------------------------------------------------------------


def test_a_pool_says_by_which_numbers_its_images_are_told(hub, tmp_path):
    hub_repository(hub, "owner/pets", pets)
    data = prepared("hf:owner/pets")
    (tmp_path / "list.txt").write_text("58\n11\n")
    (tmp_path / "s.toml").write_text(f'model = "classifier:tiny"\ndata = "{data}"\nforget = {{indices = "list.txt"}}')
    told = json.loads(json.dumps(open_scene(tmp_path / "s.toml").describe()))
    trained = next(images for images in told["sets"] if images["split"] == "train")
    assert (trained["indices"], trained["numbering"], told["forgetting"]["numbering"]) == ("11 58", "source", "source")
    assert scene_from_json(told).describe() == told
    parts = scene_from_json(told).parts
    assert set(shown(parts.forgotten)) == {seen(encoded(row)) for row in (11, 58)}


def test_pools_of_the_kits_own_numbering_are_refused_and_shares_are_what_they_were():
    chosen = ClassifierScene("mine", "classifier:tiny", Forgetting("scans", indices=(9, 4))).describe()
    published = ClassifierScene("mine", "classifier:tiny", Forgetting("scans", seed=2, as_published=True)).describe()
    for told in (chosen, published):
        del told["forgetting"]["numbering"]
        with pytest.raises(SceneError, match="numbered in the kit's own order, .* build the pool again"):
            scene_from_json(told)
    share = open_scene("tiny-classifier").describe()
    trained = next(images for images in share["sets"] if images["split"] == "train")
    assert "numbering" not in trained and "numbering" not in share["forgetting"]
    assert trained["fingerprint"].startswith("433bc5c688ba13e0") and trained["indices"].startswith("17 23 31 32 35 ")
