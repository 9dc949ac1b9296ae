"""Layer names: every tensor of an open_clip model has a label, and attention comes apart without a copy."""

import itertools
import random

import pytest
import torch

from negmerge_kit.models.layers import block_and_kind, layer_of, reading_order, split_attention
from negmerge_kit.models.tiny_clip import tiny_weights

KINDS = {"patch", "class", "pos", "ln in", "ln", "q", "k", "v", "out", "mlp", "ln out", "proj", "token", "scale"}


@pytest.fixture(scope="module")
def weights():
    return tiny_weights()


def test_every_tensor_has_a_known_kind(weights):
    assert {block_and_kind(name)[1] for name in split_attention(weights)} == KINDS


def test_real_architectures_are_covered():
    import open_clip

    for arch in ("ViT-B-32-quickgelu", "ViT-H-14-CLIPA", "coca_ViT-B-32"):
        config = open_clip.get_model_config(arch)
        config.pop("multimodal_cfg", None)
        config["vision_cfg"].update(layers=2)
        config["text_cfg"].update(layers=1, hf_tokenizer_name=None)
        custom = config.pop("custom_text", False)
        with torch.device("meta"):
            clip = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
        kinds = {block_and_kind(name)[1] for name in split_attention(clip.state_dict())}
        assert kinds <= KINDS | {"pool"}, (arch, kinds - KINDS)


def test_the_image_tower_reads_from_pixels_to_projection(weights):
    names = [name for name in split_attention(weights) if name.startswith("visual.")]
    random.Random(0).shuffle(names)
    labels = [label for label, _ in itertools.groupby(map(layer_of, reading_order(names)))]
    block = ["ln", "q", "k", "v", "out", "mlp"]
    assert labels == [
        "patch",
        "class",
        "pos",
        "ln in",
        *(f"b{k} {kind}" for k in (1, 2, 3, 4) for kind in block),
        "ln out",
        "proj",
    ]


def test_the_text_tower_comes_second_and_says_so(weights):
    labels = [label for label, _ in itertools.groupby(map(layer_of, reading_order(split_attention(weights))))]
    text = labels.index("text token")
    assert labels[text - 1] == "proj" and labels[-1] == "scale"
    assert all(label.startswith("text ") for label in labels[text:-1])


def test_timms_names_are_read_alone_and_inside_a_clip():
    import timm

    with torch.device("meta"):
        names = list(timm.create_model("vit_tiny_patch16_224").state_dict())
    for before in ("", "visual.trunk."):
        labels = [label for label, _ in itertools.groupby(map(layer_of, reading_order(before + n for n in names)))]
        block = ["ln", "qkv", "out", "mlp"]
        assert labels == [
            "patch",
            "class",
            "pos",
            *(f"b{k} {kind}" for k in range(1, 13) for kind in block),
            "ln out",
            "proj",
        ]


def test_labels_do_not_mix_blocks_or_towers(weights):
    by_label = {}
    for name in split_attention(weights):
        by_label.setdefault(layer_of(name), set()).add((name.startswith("visual."), block_and_kind(name)))
    assert all(len(places) == 1 for places in by_label.values())


def test_attention_comes_apart_in_thirds_that_share_memory(weights):
    view = split_attention(weights)
    name = "visual.transformer.resblocks.2.attn.in_proj_{}weight"
    thirds = [view[name.format(third)] for third in ("q_", "k_", "v_")]
    assert torch.equal(torch.cat(thirds), weights[name.format("")])
    assert thirds[0].data_ptr() == weights[name.format("")].data_ptr()
    assert len(view) == len(list(view)) == len(weights) + 2 * 2 * 6  # weight and bias of six layers
    assert name.format("") not in list(view) and view["visual.proj"] is weights["visual.proj"]
    assert sum(tensor.numel() for tensor in view.values()) == sum(tensor.numel() for tensor in weights.values())
    with pytest.raises(KeyError):
        view["visual.transformer.resblocks.9.attn.in_proj_q_weight"]
