"""Standard classifiers: their own head as class weights, weights from files, and what is refused."""

import pytest
import torch

from negmerge_kit.checkpoints import save_checkpoint
from negmerge_kit.errors import CheckpointError, SceneError
from negmerge_kit.models.load import load_model
from negmerge_kit.models.model_spec import ModelSpec, find_model
from negmerge_kit.models.networks import has_batch_norm
from negmerge_kit.models.preprocessing import transform_of
from negmerge_kit.models.standard_classifier import load_classifier
from negmerge_kit.scenes.find import open_scene

SIZES = {
    "tiny": (57_130, 8, True),
    "resnet20": (269_722, 32, True),
    "resnet9": (6_573_130, 32, True),
    "resnet18": (11_173_962, 32, True),
    "vgg16-bn": (14_728_266, 32, True),
    "swin-t": (27_505_108, 32, False),
}


def noise(model, n=3):
    return torch.randint(0, 256, (n, 3, *model.image_size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SIZES, "timm/test_resnet"])
def test_features_and_head_give_the_networks_own_logits(name):
    model = load_classifier(f"classifier:{name}", classes=10, device="cpu")
    parameters, size, batch_norm = SIZES.get(name, (None, 160, True))
    assert model.image_size == (size, size) == transform_of(f"classifier:{name}").size
    assert parameters in (None, sum(weight.numel() for weight in model.tower.parameters()))
    assert has_batch_norm(model.tower) is batch_norm
    pixels = model.pixels(noise(model))
    with torch.no_grad():
        assert torch.allclose(model.encode(pixels) @ model.head("any set").T, model.tower(pixels), atol=1e-4)
        if name == "tiny":  # the others take seconds for a whole pass
            assert torch.allclose(model.logits(noise(model), "x"), model.tower(pixels), atol=1e-4)


def test_the_head_is_live_and_trains_with_the_rest():
    model = load_classifier("classifier:tiny", classes=4, device="cpu")
    (model.encode(model.pixels(noise(model))) @ model.head("any").T).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.layer.parameters())
    with torch.no_grad():
        model.layer.bias += 1
    assert torch.equal(model.head("any")[:, -1], model.layer.bias)


def test_a_seed_gives_the_same_start_whatever_torchs_generator_holds():
    torch.manual_seed(5)
    first, other = (load_classifier("classifier:tiny", classes=10, device="cpu", seed=seed) for seed in (3, 4))
    torch.manual_seed(6)
    again = load_classifier("classifier:tiny", classes=10, device="cpu", seed=3)
    assert all(torch.equal(tensor, again.weights()[name]) for name, tensor in first.weights().items())
    assert not torch.equal(first.head("x"), other.head("x"))


def test_weights_come_back_from_a_file_with_as_many_classes_as_its_head(tmp_path):
    model = load_classifier("classifier:tiny", classes=7, device="cpu", seed=1)
    file = save_checkpoint(tmp_path / "net.safetensors", model.weights().items(), like=model.weights())
    same = load_model(f"classifier:tiny/{file}", device="cpu")
    assert same.spec == ModelSpec("classifier:tiny", str(file)) and len(same.head("x")) == 7
    assert torch.equal(same.logits(noise(same), "x"), model.logits(noise(model), "x"))
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in model.weights().items()}
    other = save_checkpoint(tmp_path / "wrapped.safetensors", wrapped.items(), like=wrapped)
    unwrapped = load_model(f"classifier:tiny/{other}", device="cpu")
    assert torch.equal(unwrapped.logits(noise(same), "x"), model.logits(noise(model), "x"))
    with pytest.raises(SceneError, match="the data have 10 classes, but the head of .* has 7"):
        load_classifier(f"classifier:tiny/{file}", classes=10, device="cpu")
    with pytest.raises(SceneError, match="scans has 10 classes, but the head .* has 7"):
        same.add_head("scans", tuple("0123456789"), ())
    with pytest.raises(CheckpointError, match="holds no head of this architecture"):
        load_classifier(f"classifier:resnet18/{file}", device="cpu")
    rest = {name: tensor for name, tensor in model.weights().items() if "running" not in name}
    file = save_checkpoint(tmp_path / "part.safetensors", rest.items(), like=rest)
    with pytest.raises(CheckpointError, match="6 tensors are missing, too many or of another shape"):
        load_classifier(f"classifier:tiny/{file}", device="cpu")


@pytest.mark.parametrize(
    "spec, error, says",
    [
        ("classifier:tiny", SceneError, "untrained, so it needs a number of classes"),
        ("classifier:resnet81", CheckpointError, "choose one of tiny, resnet20"),
        ("classifier:tiny/nowhere.safetensors", CheckpointError, "is not a file"),
        ("classifier:timm/no_such_net", CheckpointError, "not known to timm"),
        ("classifier:timm/resnet18/no-such-tag", CheckpointError, "neither a file nor a tag"),
    ],
)
def test_specs_that_cannot_be(spec, error, says):
    with pytest.raises(error, match=says):
        load_model(spec, device="cpu")


def test_timms_tags_are_understood_in_both_spellings():
    wanted = ModelSpec("classifier:timm/resnet18", "a1_in1k")
    assert find_model("classifier:timm/resnet18/a1_in1k") == find_model("classifier:timm/resnet18.a1_in1k") == wanted
    assert find_model(wanted.as_json()) == wanted and str(wanted) == "classifier:timm/resnet18/a1_in1k"


def test_a_scenes_classifier_names_the_classes_of_every_set():
    model = open_scene("tiny-classifier").load(device="cpu")
    assert list(model.classes) == ["forgotten", "remaining", "unseen"] and not model.heads
    assert model.classes["unseen"] == tuple("0123456789") and not model.has_text
