"""Models at another size of images than their own: positions interpolated, all else as it was, or one sentence."""

import json

import pytest
import torch
from safetensors.torch import save_file

from negmerge_kit.errors import CheckpointError, SceneError
from negmerge_kit.models.load import load_model
from negmerge_kit.models.model_spec import find_model, sized
from negmerge_kit.models.preprocessing import transform_of
from negmerge_kit.models.standard_classifier import load_classifier
from negmerge_kit.models.tiny_clip import tiny_weights
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import candidate_id, create_pool
from negmerge_kit.scenes.find import open_scene, scene_from_json


def resampled(positions, side):
    """A grid of positions [n, D] at another side, the first token kept: bicubic, antialiased."""
    first, grid = positions[:1], positions[1:]
    old = int(len(grid) ** 0.5)
    square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    wider = torch.nn.functional.interpolate(square, size=(side, side), mode="bicubic", antialias=True)
    return torch.cat([first, wider.permute(0, 2, 3, 1).reshape(side * side, -1)])


def test_a_clip_at_twice_its_size_has_interpolated_positions_and_else_the_same_weights():
    model, before = load_model(sized("tiny", 64), device="cpu"), tiny_weights()
    after, name = model.weights(), "visual.positional_embedding"
    assert model.image_size == transform_of(model.spec).size == (64, 64) and after[name].shape == (65, 96)
    torch.testing.assert_close(after[name], resampled(before[name], 8), rtol=0, atol=1e-6)
    assert all(torch.equal(after[key], before[key]) for key in before if key != name)
    assert model.features(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, 64)


def test_a_clip_from_a_file_whose_names_are_wrapped_is_interpolated_too(tmp_path):
    save_file(
        {f"module._orig_mod.{key}": value for key, value in tiny_weights().items()}, tmp_path / "wrapped.safetensors"
    )
    spec = {"arch": "negmerge-tiny", "pretrained": str(tmp_path / "wrapped.safetensors"), "size": 64}
    found, expected = load_model(spec, device="cpu").weights(), load_model(sized("tiny", 64), device="cpu").weights()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("prefix", ["timm:", "classifier:timm/"])
def test_a_timm_transformer_is_interpolated_and_its_own_file_read_back(tmp_path, prefix):
    import timm

    torch.manual_seed(0)
    before = timm.create_model("test_vit", num_classes=3).state_dict()
    save_file(before, tmp_path / "own.safetensors")
    spec = {"arch": f"{prefix}test_vit", "pretrained": str(tmp_path / "own.safetensors"), "size": 64}
    model = load_model(spec, device="cpu")
    after = model.weights()
    torch.testing.assert_close(after["pos_embed"][0], resampled(before["pos_embed"][0], 4), rtol=0, atol=1e-6)
    assert all(torch.equal(after[key], before[key]) for key in after if key != "pos_embed")
    assert model.features(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape[0] == 1
    save_file(dict(after), tmp_path / "at64.safetensors")
    again = load_model(spec | {"pretrained": str(tmp_path / "at64.safetensors")}, device="cpu").weights()
    assert all(torch.equal(again[key], after[key]) for key in after)


@pytest.mark.parametrize("name", ["resnet20", "timm/test_resnet"])
def test_a_convolutional_network_has_the_same_weights_at_any_size(name):
    own, other = (
        load_classifier(spec, classes=3, device="cpu")
        for spec in (f"classifier:{name}", sized(f"classifier:{name}", 64))
    )
    assert other.image_size == (64, 64) != own.image_size
    assert all(torch.equal(value, other.weights()[key]) for key, value in own.weights().items())
    assert other.features(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape[0] == 2


@pytest.mark.parametrize(
    ("spec", "size", "says"),
    [
        ("tiny", 36, "patches of 8, so give a multiple of 8"),
        ("classifier:resnet20", 3, "4 times, so give at least 4"),
        ("classifier:resnet18", 7, "8 times, so give at least 8"),
        ("classifier:timm/resnet18", 31, "32 times, so give at least 32"),
        ("classifier:swin-t", 33, "multiple of 2"),
        ("RN50/openai", 64, "attention pooling"),
        ("tiny", 0, "size is 0"),
    ],
)
def test_a_size_that_a_network_cannot_take_is_one_sentence(spec, size, says):
    with pytest.raises(CheckpointError, match=says):
        transform_of(sized(spec, size))


def test_the_models_own_size_stays_the_default_and_may_be_named():
    assert transform_of(sized("tiny", 32)) == transform_of("tiny") == transform_of(sized("tiny", None))
    assert find_model(sized("tiny", 64).as_json()) == sized("tiny", 64)
    with pytest.raises(CheckpointError, match="not understood"):
        find_model({"arch": "tiny", "pretrained": None, "size": True})


@pytest.mark.slow
def test_a_scene_at_another_size_is_another_scene_to_its_pool(tmp_path):
    for name, size in (("own", ""), ("large", "size = 64")):
        (tmp_path / f"{name}.toml").write_text(
            f'name = "s"\nmodel = "tiny"\nforget = "arrows"\nretain = "digits"\n{size}'
        )
    own, large = (open_scene(tmp_path / f"{name}.toml") for name in ("own", "large"))
    assert large.images("val").forget.images.shape[-2:] == (64, 64)
    described = json.loads(json.dumps(large.describe()))
    assert described["model"]["size"] == 64 and scene_from_json(described) == large
    with pytest.raises(SceneError, match="differs"):
        own.require(described)
    base = {"w": torch.zeros(1)}  # a convolutional base has the same bytes at both sizes
    pools = [create_pool(tmp_path / str(at), scene.describe(), base, {}) for at, scene in enumerate((own, large))]
    assert open_pool(tmp_path / "1").scene["model"]["size"] == 64
    assert len({candidate_id(pool, {"lr": 1}) for pool in pools}) == 2
    (tmp_path / "wrong.toml").write_text('model = "tiny"\nforget = "arrows"\nretain = "digits"\nsize = "64"')
    with pytest.raises(SceneError, match="size = 64"):
        open_scene(tmp_path / "wrong.toml")


@pytest.mark.parametrize("verb", ["sweep", "forget", "data"])
def test_verbs_refuse_a_size_before_anything_is_made(tmp_path, capsys, verb):
    from negmerge_kit.cli import main

    words = {
        "sweep": ["--scene", "tiny:arrows", "--grid", "tiny", "--out", str(tmp_path / "out")],
        "forget": [
            "--model",
            "tiny",
            "--forget",
            "arrows",
            "--retain",
            "digits",
            "--grid",
            "tiny",
            "--out",
            str(tmp_path / "out"),
        ],
        "data": ["prepare", "arrows", "--model", "tiny"],
    }[verb]
    assert main([verb, *words, "--size", "36"]) == 2
    assert "multiple of 8" in capsys.readouterr().err and not (tmp_path / "out").exists()
