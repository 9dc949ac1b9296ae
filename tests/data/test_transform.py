"""Preparing images as the models' own code does, once; and augmenting them as timm does."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from negmerge_kit.data.augment import augment, check_augment
from negmerge_kit.data.transform import Transform, as_transform
from negmerge_kit.errors import ParameterError, SceneError
from negmerge_kit.models.classifier import OPENAI_MEAN
from negmerge_kit.models.preprocessing import transform_of


def picture(width, height, mode="RGB"):
    pixels = np.random.RandomState(width * height).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", [(40, 30), (31, 77), (32, 32), (33, 200), (20, 25)])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_open_clip(size, resize, mode):
    from open_clip.transform import image_transform

    theirs = image_transform(
        32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=resize, interpolation="bicubic", fill_color=7
    )(picture(*size, mode))
    ours = Transform(32, 32, resize=resize, fill=7)(picture(*size, mode))
    assert ours.dtype == np.uint8 and ours.shape == (3, 32, 32)
    np.testing.assert_array_equal(ours, (theirs * 255).round().to(torch.uint8).numpy())


def test_pixels_are_those_of_timm(size=(70, 50)):
    from timm.data import create_transform

    theirs = create_transform((3, 32, 32), interpolation="bilinear", crop_pct=0.8, mean=(0, 0, 0), std=(1, 1, 1))
    ours = Transform(32, 32, "bilinear", crop=0.8)(picture(*size))
    np.testing.assert_array_equal(ours, (theirs(picture(*size)) * 255).round().to(torch.uint8).numpy())


def test_palettes_and_transparency_become_rgb_before_they_are_resized():
    flat = Image.new("RGBA", (50, 40), (10, 200, 30, 128))
    assert Transform(8, 8)(flat)[:, 3, 3].tolist() == [10, 200, 30]
    smooth = picture(64, 64).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(Transform(16, 16)(smooth), Transform(16, 16)(smooth.convert("RGB")))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("tiny", Transform(32, 32)),
        ("ViT-B-32/openai", Transform(224, 224)),
        ("ViT-B-16-SigLIP/webli", Transform(224, 224, resize="squash")),
        ("timm:test_vit/r160_in1k", Transform(160, 160, "bicubic", crop=0.95)),
    ],
)
def test_models_say_what_they_want_without_their_weights(spec, expected):
    assert transform_of(spec) == expected


def test_a_file_takes_its_architectures_preprocessing(tmp_path):
    (tmp_path / "w.pt").touch()
    assert transform_of({"arch": "ViT-L-14-336", "pretrained": str(tmp_path / "w.pt")}) == Transform(336, 336)
    assert as_transform((20, 30)).size == (20, 30) and as_transform(Transform(9, 9)).size == (9, 9)


@pytest.mark.parametrize("bad", [{"height": 0}, {"crop": 0.0}, {"resize": "stretch"}, {"interpolation": "magic"}])
def test_transforms_that_cannot_be_are_refused(bad):
    with pytest.raises(SceneError, match="cannot be made|not known"):
        Transform(**{"height": 8, "width": 8, **bad})


# --- augmentation ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (24, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("spec", ["rand-m1-n1-mstd0.5", "rand-m2-n3-mstd0.5", "rand-m10-n3-mstd0.5"])
def test_operations_are_timms_own_draw_by_draw(images, spec, monkeypatch):
    import timm.data.auto_augment as timms
    from timm.data.auto_augment import rand_augment_transform

    def posterize(image, bits, **settings):  # as timm's before Pillow 13
        return timms.ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)

    monkeypatch.setitem(timms.NAME_TO_OP, "Posterize", posterize)
    ours = augment(images, spec, seed=5, crop=False)
    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(5)
    np.random.seed(5)
    mean = tuple(min(255, round(255 * value)) for value in OPENAI_MEAN)
    theirs = rand_augment_transform(spec, {"translate_const": int(40 * 0.45), "img_mean": mean})
    for image, made in zip(images, ours, strict=True):
        expected = np.asarray(theirs(Image.fromarray(image.permute(1, 2, 0).numpy())))
        np.testing.assert_array_equal(made.permute(1, 2, 0).numpy(), expected)
    random.setstate(state)
    np.random.set_state(numpy_state)


def test_the_seed_decides_and_nothing_else_does(images, monkeypatch):
    spec = "rand-m9-n2-mstd0.5"
    random.seed(1)
    first = augment(images, spec, seed=3, flips=True)
    followed = random.random()
    monkeypatch.setattr("negmerge_kit.data.augment.cores", lambda: 1)
    assert torch.equal(augment(images, spec, seed=3, flips=True), first)
    assert not torch.equal(augment(images, spec, seed=4, flips=True), first)
    random.seed(1)
    assert random.random() == followed, "the caller's generator is left alone"
    assert first.shape == images.shape and first.dtype == torch.uint8 and not torch.equal(first, images)


def test_mirrors_are_off_unless_asked_for(images):
    assert augment(images, "none", seed=0) is images
    mirrored = augment(images, "none", seed=0, flips=True)
    turned = [torch.equal(made, image.flip(2)) for made, image in zip(mirrored, images, strict=True)]
    same = [torch.equal(made, image) for made, image in zip(mirrored, images, strict=True)]
    assert 4 < sum(turned) < 20 and sum(turned) + sum(same) == 24


def test_posterize_to_no_bits_is_black_whatever_pillow_says(images, monkeypatch):
    """Pillow 13 refuses 0 bits, which timm asks for at magnitudes 1 and 2; older ones gave black."""
    import timm.data.auto_augment as timms

    def posterize(image, bits, **settings):
        if bits < 1:
            raise ValueError("bits must be at least 1")
        return timms.ImageOps.posterize(image, bits)

    monkeypatch.setitem(timms.NAME_TO_OP, "Posterize", posterize)
    many = images.repeat(8, 1, 1, 1)
    made = augment(many, "rand-m1-n3-mstd0.5", seed=0, crop=False)
    black = sum(int(image.max()) == 0 for image in made)
    assert black > 0


@pytest.mark.parametrize("spec", ["rand", "randm9", "rand-m9-x3", "augmix-m3", ""])
def test_unknown_augmentations_are_refused(images, spec):
    with pytest.raises(ParameterError, match=r"give none, timm's rand-m\{m\}"):
        check_augment(spec)
    with pytest.raises(ParameterError, match="uint8"):
        augment(images.float(), "none", seed=0)
