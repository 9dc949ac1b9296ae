"""Other models than the embedded one: CLIPs with timm towers, timm towers alone, weights that are not there."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from negmerge_kit.errors import CheckpointError, SceneError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.linearized import linearize
from negmerge_kit.models.load import load_model
from negmerge_kit.models.model_spec import ModelSpec, find_model
from negmerge_kit.models.parameters import trained_parameters


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A file of timm's smallest vision transformer with a classifier, as timm writes it."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), path)
    return path


def _images(classes=3, n=9, size=160):
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, size, size), generator=noise, dtype=torch.uint8)
    return ImageSet("toys", pixels, torch.arange(n) % classes, tuple("abcdefg"[:classes]), "train")


@pytest.mark.slow
def test_a_timm_tower_gives_timms_features_at_unit_length(vit):
    import timm

    model = load_model(f"timm:test_vit/{vit}", device="cpu")
    assert model.spec == ModelSpec("timm:test_vit", str(vit)) and model.image_size == (160, 160)
    assert find_model(model.spec.as_json()) == model.spec
    images = _images().images[:2]
    plain = timm.create_model("test_vit", num_classes=0).eval()
    plain.load_state_dict(model.weights())  # the kit's files have timm's own names
    with torch.no_grad():
        expected = torch.nn.functional.normalize(plain(model.pixels(images)), dim=1)
    torch.testing.assert_close(model.features(images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(linearize(model).features(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrap", ["module.", "module._orig_mod."])
def test_a_timm_file_whose_names_are_all_wrapped_is_the_same_tower(tmp_path, vit, wrap):
    path = tmp_path / "wrapped.safetensors"
    save_file({f"{wrap}{name}": tensor for name, tensor in load_file(vit).items()}, path)
    expected = load_model(f"timm:test_vit/{vit}", device="cpu").weights()
    found = load_model(f"timm:test_vit/{path}", device="cpu").weights()
    assert {*found} == {*expected} and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_timm_tower_classifies_by_class_means_and_says_why(vit):
    model = load_model({"arch": "timm:test_vit", "pretrained": str(vit)}, device="cpu")
    images = _images()
    assert not model.has_text
    with pytest.raises(SceneError, match=r"no text tower.*add_prototypes"):
        model.add_head("toys", images.classes, ("a {}.",))
    head = model.add_prototypes(images)
    features = model.features(images.images)
    mean = torch.stack([features[images.labels == label].mean(0) for label in range(3)])
    torch.testing.assert_close(head, 100 * mean / mean.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-4)
    assert model.classes["toys"] == ("a", "b", "c")
    with pytest.raises(SceneError, match="no train image of class 'c'"):
        model.add_prototypes(images.take(2))


def test_timm_weights_are_named_or_refused(vit):
    assert find_model("timm:resnet18.a1_in1k") == find_model("timm:resnet18/a1_in1k")
    for spec, words in {
        "timm:test_vit": r"no weights were named.*r160_in1k",
        "timm:test_vit/best": r"'best' is neither a file nor a tag.*r160_in1k",
        "timm:no_such/net": "not known to timm",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            find_model(spec)
    with pytest.raises(CheckpointError, match=r"tensors are in one of file and architecture only"):
        load_model(f"timm:test_resnet/{vit}", device="cpu")  # timm itself goes on with random weights


@pytest.mark.slow
def test_a_clip_whose_image_tower_is_timms(tmp_path):
    """open_clip's own configs for such models, at toy size: CustomTextCLIP, saved and loaded again."""
    import open_clip

    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 160,
        },
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        "custom_text": True,
    }
    (tmp_path / "toy-timm-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "toy-timm-clip.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model("toy-timm-clip").state_dict(), tmp_path / "toy.safetensors")
    model = load_model(f"toy-timm-clip/{tmp_path / 'toy.safetensors'}", device="cpu")
    model.add_head("toys", ("cat", "dog"), ("a {}.",))
    assert model.logits(_images().images, "toys").shape == (9, 2)
    tower = model.tower
    assert all(name.startswith(("trunk.blocks", "trunk.norm", "head")) for name in trained_parameters(tower, "last-1"))
    assert not any(".attn." in name for name in trained_parameters(tower, "no-attention"))
    torch.testing.assert_close(
        linearize(model).features(_images().images[:1]), model.features(_images().images[:1]), rtol=1e-4, atol=1e-5
    )
