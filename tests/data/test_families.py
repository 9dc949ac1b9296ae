"""The image families: the same pixels everywhere, splits that share nothing, classes that take turns."""

import itertools

import pytest
import torch

from negmerge_kit.data.drawing.figures import digit_rows, letter_fields, scans, symbol_fields
from negmerge_kit.data.embedded import FAMILIES, SPLITS, draw_images, family_images
from negmerge_kit.errors import SceneError
from negmerge_kit.image_set import ImageSet

# First 16 hex digits by split (pretrain, train, val, test). Pools store these fingerprints: a change here makes every
# pool in a user's cache stale, so it needs a line in the change log. Drawn alike by NumPy 1.26 and 2.4, with and
# without AVX.
FINGERPRINTS = {
    "digits": ("fe70a37bd90a3e90", "c8f464c0417ae37b", "131734f174d92c2b", "21c461a5c4545afd"),
    "shapes": ("dcd74c5e8490f72a", "48cb235f8ba7482b", "800098a2ed784edd", "75f37ddcae9fe0d4"),
    "textures": ("e6fe390d04372734", "56485c57ae900be0", "10141b85838d4940", "6e137042baeca472"),
    "letters": ("5347205a74653792", "aca14fe2c716dc2c", "84c66c9f29db0d58", "e0adad9959c02f5e"),
    "symbols": ("1e4a954b78ec45ae", "d34b61960d6b7258", "bf8a74a537c06b83", "1850583e386e82b8"),
    "arrows": ("c5a001bdd703a410", "f8fc5d4e7548dd96", "2e74a7a6563b1f38", "f78ae0e43b5c9daa"),
    "colours": ("5efbda6cca7fb1c4", "8ca2c75b62022d51", "09f9febc388e874d", "3fc0eea521254cb8"),
}
SIZES = {"digits": (1000, 700, 240, 357), "letters": (2400, 700, 240, 240), "symbols": (2400, 700, 240, 240)}


@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_pinned(name):
    found = tuple(family_images(name, split).fingerprint()[:16] for split in SPLITS)
    assert found == FINGERPRINTS[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_classes_and_balance(name):
    family = FAMILIES[name]
    assert len(family.templates) == len(set(family.templates)) == 3
    assert len(family.classes) == len(set(family.classes))
    for split, size in zip(SPLITS, SIZES.get(name, (1200, 700, 240, 240)), strict=True):
        images = family_images(name, split)
        assert images.images.shape == (size, 3, 32, 32) and images.images.dtype == torch.uint8
        counts = torch.bincount(images.labels, minlength=len(family.classes))
        assert counts.max() - counts.min() <= (9 if (name, split) == ("digits", "test") else 1)
        # any leading part is balanced too, so that `take` cannot favour a class
        lead = torch.bincount(images.labels[:40], minlength=len(family.classes))
        assert lead.max() - lead.min() <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_no_image_is_in_two_splits(name):
    seen = {split: {image.numpy().tobytes() for image in family_images(name, split).images} for split in SPLITS}
    assert all(len(seen[split]) == len(family_images(name, split)) for split in SPLITS)
    assert not any(seen[a] & seen[b] for a, b in itertools.combinations(SPLITS, 2))


def test_each_scan_belongs_to_one_split():
    rows = [digit_rows(split) for split in SPLITS]
    assert [len(part) for part in rows] == [500, 700, 240, 357]
    assert sorted(itertools.chain(*rows)) == list(range(1797))
    grey, _ = scans()
    assert len({scan.tobytes() for scan in grey}) == 1797


def test_a_new_epoch_draws_new_pictures_of_the_same_classes_but_no_new_handwriting():
    first, second = draw_images("shapes", "pretrain"), draw_images("shapes", "pretrain", 1)
    assert torch.equal(first.labels, second.labels)
    assert not (first.images == second.images).flatten(1).all(1).any()
    assert draw_images("digits", "pretrain", 1).fingerprint() == draw_images("digits", "pretrain").fingerprint()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "textures"])
def test_figures_are_bright_on_dark_and_nearly_centred(name):
    pixels = family_images(name, "val").images.float().mean(1)
    rim = torch.cat([pixels[:, :2].flatten(1), pixels[:, -2:].flatten(1)], 1).mean(1)
    assert bool((pixels.flatten(1).quantile(0.98, dim=1) > rim + 30).all())
    light = (pixels - rim.view(-1, 1, 1) - 30).clamp(min=0)
    axis = torch.arange(32.0) - 15.5
    total = light.sum((1, 2))
    assert ((light.sum(1) @ axis) / total).abs().max() < 8 and ((light.sum(2) @ axis) / total).abs().max() < 8


@pytest.mark.parametrize("fields", [letter_fields(), symbol_fields()], ids=["letters", "symbols"])
def test_no_two_figures_look_alike(fields):
    """The inked areas of any two classes differ in a tenth of their union, both drawn in their normal pose."""
    ink = torch.from_numpy(fields[:, 0] < 0.12).flatten(1)
    for a, b in itertools.combinations(ink, 2):
        assert int((a ^ b).sum()) > 0.1 * int((a | b).sum())


def test_unknown_names_list_the_choices():
    with pytest.raises(SceneError, match="digits, shapes, textures, letters, symbols, arrows, colours"):
        family_images("numbers", "val")
    with pytest.raises(SceneError, match="pretrain, train, val, test"):
        family_images("digits", "valid")


def test_an_image_set_refuses_what_does_not_fit():
    pixels, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    for images, given, classes, told in (
        (pixels.float(), labels, ("a", "b"), "uint8"),
        (pixels[:, :1], labels, ("a", "b"), "uint8"),
        (pixels, labels[:1], ("a", "b"), "one int64 label"),
        (pixels, labels, ("a",), "1 classes"),
        (pixels, labels - 1, ("a", "b"), "-1"),
    ):
        with pytest.raises(SceneError, match=told):
            ImageSet("toy", images, given, classes, "val")


def test_the_fingerprint_depends_on_labels_and_pixels():
    images = family_images("shapes", "val").take(20)
    brighter = ImageSet("shapes", images.images + 1, images.labels, images.classes, "val")
    swapped = ImageSet("shapes", images.images, images.labels.flip(0), images.classes, "val")
    assert len({images.fingerprint(), brighter.fingerprint(), swapped.fingerprint()}) == 3
    renamed = ImageSet("other", images.images.clone(), images.labels, images.classes, "test")
    assert renamed.fingerprint() == images.fingerprint()
