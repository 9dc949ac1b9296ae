"""Twins: what is found in drawn pictures that were altered in known ways, and what is not."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from negmerge_kit.data.report import class_counts, file_modes, twins_of
from negmerge_kit.data.twins import exact_twins, find_twins
from negmerge_kit.image_set import ImageSet
from tests.data.pictures import write_folder


def drawn(n, seed, side=32):
    """Smooth pictures: 4 x 4 random colours, enlarged."""
    small = np.random.RandomState(seed).randint(20, 220, (n, 4, 4, 3)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in small]
    return torch.from_numpy(np.stack(large).transpose(0, 3, 1, 2).copy())


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
    return torch.from_numpy(np.asarray(Image.open(file)).transpose(2, 0, 1).copy())


ALTERED = {
    "brighter": lambda image: image + 20,
    "less contrast": lambda image: (image.float() * 0.7 + 30).to(torch.uint8),
    "encoded again": jpeg,
    "mirrored": lambda image: image.flip(2),
    "mirrored and brighter": lambda image: image.flip(2) + 9,
    "a pixel to the right": lambda image: torch.cat([image[:, :, :1], image[:, :, :-1]], 2),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_picture_is_a_near_twin_and_no_other_is(how):
    images, others = drawn(40, 0), drawn(60, 1)
    others[17] = ALTERED[how](images[5])
    twins = find_twins(images, others)
    assert twins.exact == () and twins.near == ((5, 17),)
    assert find_twins(torch.cat([images, others])).near == ((5, 57), (57, 5))


def test_equal_pictures_are_exact_twins_only():
    images = drawn(30, 2)
    images[20] = images[3]
    twins = find_twins(images)
    assert twins.exact == ((3, 20), (20, 3)) and twins.near == ()
    assert exact_twins(images[:10], images[20:]) == ((3, 0),)


def test_blocks_end_nowhere_near_a_twin(monkeypatch):
    images = drawn(40, 3)
    images[33] = images[2] + 11
    whole = find_twins(images)
    monkeypatch.setattr("negmerge_kit.data.twins.BLOCK", 7)
    assert find_twins(images) == whole and whole.near == ((2, 33), (33, 2))


def test_nearly_uniform_pictures_and_empty_sets_have_no_near_twins():
    grey = torch.full((4, 3, 32, 32), 90, dtype=torch.uint8) + torch.arange(4, dtype=torch.uint8)[:, None, None, None]
    assert find_twins(grey).near == () and find_twins(grey[:0]).exact == ()
    assert find_twins(drawn(3, 0), grey[:0]).near == ()


def test_the_report_counts_classes_and_every_two_sets():
    images = drawn(6, 4)
    labels = torch.tensor([0, 0, 0, 2])
    train = ImageSet("pets", images[:4], labels, ("cat", "dog", "eel"), "train")
    test = ImageSet("pets", images[2:], labels, ("cat", "dog", "eel"), "test")
    counts = class_counts(train)
    assert (counts["smallest"], counts["largest"], counts["empty"]) == (1, 3, ["dog"])
    found = {(pair["first"], pair["second"]): pair for pair in twins_of([train, test])}
    assert set(found) == {(0, 0), (0, 1), (1, 1)}
    assert found[0, 1]["exact"] == [(2, 0), (3, 1)] and found[0, 0]["exact"] == []


def test_modes_are_read_from_the_files(tmp_path):
    from negmerge_kit.data.folder import FolderSource

    root = write_folder(tmp_path / "pets", (4, 4, 4))
    Image.new("CMYK", (8, 8)).save(root / "cat" / "print.jpg")
    Image.new("LA", (8, 8)).save(root / "dog" / "la.png")
    (root / "eel" / "broken.png").write_bytes(b"no image")
    assert file_modes(FolderSource(root).encoded(".")) == {"RGB": 12, "CMYK": 1, "LA": 1, "unreadable": 1}
