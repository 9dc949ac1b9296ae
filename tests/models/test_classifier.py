"""The classifier: features, heads and loading, on the embedded model."""

import pytest
import torch
import torch.nn.functional as F

from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.devices import pick_device, pick_merge_device
from negmerge_kit.errors import DeviceError, MismatchError, SceneError
from negmerge_kit.models.classifier import OPENAI_MEAN, OPENAI_STD
from negmerge_kit.models.load import load_model


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", device="cpu")


# Right answers of the shipped weights: val of 240, test of 240 (digits 357).
RIGHT = {
    "digits": (205, 295),
    "shapes": (215, 213),
    "textures": (216, 214),
    "letters": (223, 229),
    "symbols": (239, 239),
    "arrows": (235, 235),
    "colours": (237, 238),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_shipped_weights_score_what_was_measured(model, name):
    for split, right in zip(("val", "test"), RIGHT[name], strict=True):
        images = family_images(name, split)
        found = int((model.logits(images.images, name).argmax(1) == images.labels).sum())
        assert abs(found - right) <= 2  # another processor may round a tie the other way


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_equal_an_independent_computation(model, name):
    """One prompt at a time, the text tower written out: embed, attend causally, read at the end token."""
    import open_clip

    family, clip = FAMILIES[name], model.clip
    tokenize = open_clip.get_tokenizer("negmerge-tiny")
    rows = []
    with torch.no_grad():
        for label in family.classes:
            parts = []
            for template in family.templates:
                tokens = tokenize(template.format(label))[0]
                end = int((tokens == 49407).nonzero()[0])
                x = clip.token_embedding.weight[tokens[: end + 1]] + clip.positional_embedding[: end + 1]
                mask = torch.full((end + 1, end + 1), float("-inf")).triu(1)
                for block in clip.transformer.resblocks:
                    x = x + _attend(block.attn, block.ln_1(x), mask)
                    x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x))))
                feature = clip.ln_final(x)[-1] @ clip.text_projection
                parts.append(feature / feature.norm())
            mean = torch.stack(parts).mean(0)
            rows.append(mean / mean.norm() * clip.logit_scale.exp())
    torch.testing.assert_close(model.heads[name], torch.stack(rows), rtol=1e-4, atol=1e-4)
    assert model.classes[name] == family.classes


def _attend(attention, x, mask):
    q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=-1)
    heads = [
        torch.softmax(a @ b.T / a.shape[-1] ** 0.5 + mask, -1) @ c
        for a, b, c in zip(*(t.chunk(attention.num_heads, dim=-1) for t in (q, k, v)), strict=True)
    ]
    return attention.out_proj(torch.cat(heads, dim=-1))


def test_features_are_unit_vectors_and_do_not_depend_on_grouping(model):
    images = torch.cat([family_images(name, "val").images for name in ("shapes", "letters")])
    whole = model.features(images)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(len(images)))
    for start, end in ((0, 1), (0, 7), (5, 44), (59, 61), (100, 340), (479, 480)):
        assert torch.equal(model.features(images[start:end]), whole[start:end])


def test_no_images_give_no_features(model):
    assert model.features(torch.zeros(0, 3, 32, 32, dtype=torch.uint8)).shape == (0, 64)


def test_pixels_are_normalised_as_open_clip_does(model):
    image = family_images("colours", "val").images[:3]
    mean, std = torch.tensor(OPENAI_MEAN), torch.tensor(OPENAI_STD)
    expected = (image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(model.pixels(image), expected)


def test_images_of_another_size_or_type_are_refused(model):
    with pytest.raises(SceneError, match="resize"):
        model.features(torch.zeros(1, 3, 48, 48, dtype=torch.uint8))
    with pytest.raises(SceneError, match="uint8"):
        model.features(torch.zeros(1, 3, 32, 32))
    with pytest.raises(SceneError, match="head 'dogs' does not exist: choose one of digits"):
        model.logits(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "dogs")


def test_loading_is_in_place_and_exact(model):
    other = load_model("tiny", device="cpu")
    images = family_images("arrows", "val").images
    addresses = {name: tensor.data_ptr() for name, tensor in other.clip.state_dict().items()}
    base = other.weights()
    other.load((name, tensor * 0.5 if name.startswith("visual") else tensor) for name, tensor in base.items())
    assert not torch.equal(other.features(images), model.features(images))
    other.load(base.items())
    assert torch.equal(other.features(images), model.features(images))
    assert addresses == {name: tensor.data_ptr() for name, tensor in other.clip.state_dict().items()}
    other.load([("visual.proj", base["visual.proj"] + 1)], partial=True)
    assert torch.equal(other.weights()["visual.proj"], base["visual.proj"] + 1)


def test_weights_are_a_copy(model):
    model.weights()["visual.proj"].zero_()
    assert bool(model.tower.proj.any())


def test_loading_refuses_foreign_and_missing_tensors():
    model = load_model("tiny", device="cpu")
    weights = model.weights()
    with pytest.raises(MismatchError, match=r"'visual\.fc' is not part of tiny"):
        model.load([("visual.fc", torch.zeros(1))])
    with pytest.raises(MismatchError, match=r"'visual\.proj' is \[2, 2\], but tiny has \[96, 64\]"):
        model.load([("visual.proj", torch.zeros(2, 2))])
    del weights["visual.proj"]
    with pytest.raises(MismatchError, match=r"1 tensors of tiny were left out, 'visual\.proj' first"):
        model.load(weights.items())


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(DeviceError, match="not there: choose auto, or one of cpu"):
            pick_device(name)
    for name in ("gpu", "cuda:x", "cpu:0:1"):
        with pytest.raises(DeviceError, match="not known"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda") and pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="cuda:2"):
        pick_device("cuda:2")


def test_merging_leaves_mps_out_unless_it_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == pick_merge_device("mps").type == "mps"
    assert pick_merge_device("auto").type == "cpu"
