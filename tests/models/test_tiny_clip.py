"""The embedded CLIP as open_clip users meet it: its size, its frozen embedding, its files."""

import hashlib
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from negmerge_kit.data.embedded import family_images
from negmerge_kit.errors import CheckpointError
from negmerge_kit.models import model_spec, tiny_clip
from negmerge_kit.models.load import load_model
from negmerge_kit.models.model_spec import ModelSpec, find_model


def test_the_shipped_file_is_small_and_holds_half_floats_without_the_embedding():
    assert tiny_clip.SHIPPED.stat().st_size <= 1.5e6
    stored = load_file(tiny_clip.SHIPPED)
    assert tiny_clip.TOKEN_EMBEDDING not in stored
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in stored.values())


def test_the_token_embedding_is_pinned():
    digest = hashlib.sha256(tiny_clip.token_embedding().numpy().astype("<f4").tobytes()).hexdigest()
    assert digest == "1f7d641f45ffd4d3bb0936e528194501789b0eb4ae0e200f8fc5a33bdde47770"


def test_the_whole_state_dict_is_materialised():
    weights, clip = tiny_clip.tiny_weights(), tiny_clip.fresh_clip()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in clip.state_dict().items()
    }
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_fresh_clip_comes_from_its_seed_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    a, b, c = (tiny_clip.fresh_clip(seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["visual.proj"], c["visual.proj"])
    assert torch.equal(a[tiny_clip.TOKEN_EMBEDDING], tiny_clip.token_embedding())


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "own.safetensors"
    weights = tiny_clip.tiny_weights()
    weights["visual.proj"] = weights["visual.proj"].flip(0).contiguous()
    save_file(weights, path)
    return path


def test_a_saved_file_opens_in_open_clip_with_the_same_features(saved):
    import open_clip

    images = family_images("symbols", "val").images[:60]
    model = load_model(saved, device="cpu")
    clip = open_clip.create_model(tiny_clip.register(), pretrained=str(saved), require_pretrained=True).eval()
    with torch.no_grad():
        theirs = clip.encode_image(model.pixels(images), normalize=True)
    assert torch.equal(theirs, model.features(images))
    assert not torch.equal(theirs, load_model("tiny", device="cpu").features(images))


@pytest.mark.parametrize(
    "spec",
    [
        lambda path: str(path),
        lambda path: f"negmerge-tiny/{path}",
        lambda path: {"arch": "negmerge-tiny", "pretrained": str(path)},
    ],
    ids=["file", "ARCH/FILE", "dict"],
)
def test_every_way_to_name_a_file(saved, spec):
    model = load_model(spec(saved), device="cpu")
    assert torch.equal(model.weights()["visual.proj"], load_file(saved)["visual.proj"])
    assert "digits" in model.heads and not model.spec.is_embedded
    assert find_model(model.spec.as_json()) == model.spec


def test_embedded_specs_agree():
    for spec in (
        "tiny",
        {"arch": "negmerge-tiny"},
        {"arch": "tiny", "pretrained": None},
        ModelSpec(tiny_clip.TINY, None),
    ):
        assert find_model(spec) == ModelSpec(tiny_clip.TINY, None)
    assert find_model("tiny").as_json() == "tiny" == str(find_model("tiny"))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("huge", "neither a file nor an open_clip architecture"),
        ("ViT-B-32", "neither a file nor an open_clip architecture"),
        ("ViT-B-32/nope", "neither a file nor a tag of ViT-B-32: choose one of openai"),
        ({"arch": "ViT-B-32", "pretrained": None}, "a random model is never used"),
        ({"arch": "ViT-Z", "pretrained": "openai"}, "'ViT-Z' is not known"),
        ({"pretrained": "openai"}, "not understood"),
        ({"arch": "tiny", "weights": "x"}, "not understood"),
    ],
)
def test_what_cannot_be_found_is_told(spec, told):
    with pytest.raises(CheckpointError, match=told):
        find_model(spec)


def test_tags_select_the_activation_they_were_trained_with(monkeypatch):
    assert find_model("ViT-B-16/openai").arch == "ViT-B-16-quickgelu"
    assert find_model("ViT-B-16-quickgelu/openai").arch == "ViT-B-16-quickgelu"
    assert find_model("ViT-L-14/openai").arch == "ViT-L-14-quickgelu"
    assert find_model("ViT-B-32/laion2b_s34b_b79k").arch == "ViT-B-32"
    monkeypatch.setattr(model_spec, "_architectures", lambda: ["ViT-B-16"])
    with pytest.raises(CheckpointError, match="trained with QuickGELU and open_clip has no such variant"):
        find_model("ViT-B-16/openai")


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_file_whose_names_are_all_wrapped_is_the_same_model(tmp_path, saved, wrap):
    path = tmp_path / "wrapped.safetensors"
    save_file({f"{wrap}{name}": tensor for name, tensor in load_file(saved).items()}, path)
    expected = load_file(saved)
    for spec in (path, f"negmerge-tiny/{path}"):
        found = load_model(spec, device="cpu").weights()
        assert {*found} == {*expected} and all(torch.equal(found[name], expected[name]) for name in expected)


def test_files_that_do_not_fit(tmp_path, saved):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"fc.weight": torch.zeros(2, 2)}, foreign)
    with pytest.raises(CheckpointError, match="does not say which architecture"):
        load_model(foreign, device="cpu")
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load_model(f"negmerge-tiny/{foreign}", device="cpu")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved.read_bytes()[:5000])
    for spec in (str(cut), f"negmerge-tiny/{cut}"):
        with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
            load_model(spec, device="cpu")
    empty = tmp_path / "empty.pt"
    empty.touch()
    with pytest.raises(CheckpointError, match=r"empty\.pt could not be loaded \("):
        load_model(f"negmerge-tiny/{empty}", device="cpu")
    named = tmp_path / "named.safetensors"
    save_file(load_file(saved), named, metadata={"arch": "negmerge-tiny"})
    assert load_model(named, device="cpu").spec.arch == "negmerge-tiny"


@pytest.mark.parametrize("spoil", [torch.zeros_like, lambda tensor: torch.full_like(tensor, float("nan"))])
def test_weights_that_do_not_look_at_the_image_are_refused(tmp_path, spoil):
    weights = tiny_clip.tiny_weights()
    weights["visual.conv1.weight"] = spoil(weights["visual.conv1.weight"])
    path = tmp_path / "blind.safetensors"
    save_file(weights, path)
    with pytest.raises(CheckpointError, match="same or no features for different images"):
        load_model(path, device="cpu")


def test_missing_shipped_weights_name_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny_clip, "SHIPPED", tmp_path / "gone.safetensors")
    with pytest.raises(CheckpointError, match="--from-scratch"):
        tiny_clip.tiny_weights()


def test_shipping_gives_the_same_bytes_and_the_same_weights(tmp_path):
    path = tiny_clip.ship(tiny_clip.tiny_weights(), tmp_path / "again.safetensors")
    assert path.read_bytes() == tiny_clip.SHIPPED.read_bytes()


@pytest.mark.slow
def test_the_room_opens_without_open_clip():
    code = (
        "import sys\nfrom negmerge_kit.models import clip, layers, tiny_clip\nfrom negmerge_kit.scenes import scene\n"
        "from negmerge_kit.data import embedded\n"
        "sys.exit('open_clip' in sys.modules or 'torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
