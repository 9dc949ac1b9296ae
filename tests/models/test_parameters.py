"""Named parameter groups: counted against the authors' model, and refused where they mean nothing."""

import pytest
import torch

from negmerge_kit.errors import ParameterError
from negmerge_kit.models.parameters import check_trainable, trained_parameters


def _size(parameters):
    return sum(parameter.numel() for parameter in parameters)


@pytest.fixture(scope="module")
def towers():
    import open_clip
    import timm

    with torch.device("meta"):
        vit = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).visual
        swin = timm.create_model("swin_tiny_patch4_window7_224")
        return {"vit": vit, "resnet": timm.create_model("resnet18"), "swin": swin}


def test_no_attention_freezes_what_the_authors_code_freezes(towers):
    assert _size(towers["vit"].parameters()) == 87_849_216
    assert 87_849_216 - _size(trained_parameters(towers["vit"], "no-attention").values()) == 28_348_416


def test_the_last_blocks_and_what_follows_them(towers):
    def heads(names):
        return {name.rpartition("resblocks.")[2].split(".")[0] for name in names}

    assert heads(trained_parameters(towers["vit"], "last-2")) == {"10", "11", "ln_post", "proj"}
    assert set(trained_parameters(towers["vit"], "last-12")) == {
        name
        for name, _ in towers["vit"].named_parameters()
        if not name.startswith(("class_emb", "positional", "conv1", "ln_pre"))
    }
    names = trained_parameters(towers["resnet"], "last-1")
    assert {name.split(".")[0] for name in names} == {"layer4", "fc"} and not any("layer4.0" in name for name in names)
    names = trained_parameters(towers["swin"], "last-3")  # the last stage has two blocks, after a downsampling
    assert "layers.3.downsample.reduction.weight" in names and "layers.2.blocks.5.norm1.weight" in names
    assert "layers.2.blocks.4.norm1.weight" not in names and "head.fc.weight" in names


def test_norms_are_the_modules_not_the_names(towers):
    for tower in towers.values():
        kinds = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
        expected = sum(_size(module.parameters()) for module in tower.modules() if isinstance(module, kinds))
        assert _size(trained_parameters(tower, "norms").values()) == expected > 0


def test_groups_that_mean_nothing_are_refused(towers):
    for group in ("last-0", "last-K", "last-", "attention", "last--1"):
        with pytest.raises(ParameterError, match="choose all, no-attention"):
            check_trainable(group)
    with pytest.raises(ParameterError, match="has 12 blocks"):
        trained_parameters(towers["vit"], "last-13")
    with pytest.raises(ParameterError, match="no attention layers"):
        trained_parameters(towers["resnet"], "no-attention")
