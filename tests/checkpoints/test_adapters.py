"""LoRA adapters merge as the whole checkpoints would that they stand for."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from negmerge_kit.checkpoints.adapters import Adapter, is_adapter
from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging import RULES, merge, sign_agreement, total
from tests.merging.test_kinds_of_mappings import Lazy, unaligned

BASE = {
    "enc.q.weight": torch.randn(6, 4),
    "enc.conv.weight": torch.randn(5, 3, 2, 2),
    "emb.weight": torch.randn(10, 4),
    "head.weight": torch.randn(2, 6),
    "ln.weight": torch.ones(4),
    "steps": torch.tensor(1),
}


def write(folder, seed, *, rank=2, **config):
    folder.mkdir()
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    pre = "base_model.model."
    stored = {
        f"{pre}enc.q.lora_A.weight": draw(rank, 4), f"{pre}enc.q.lora_B.weight": draw(6, rank),
        f"{pre}enc.conv.lora_A.weight": draw(rank, 3, 2, 2), f"{pre}enc.conv.lora_B.weight": draw(5, rank, 1, 1),
        f"{pre}emb.lora_embedding_A": draw(rank, 10), f"{pre}emb.lora_embedding_B": draw(4, rank),
        f"{pre}head.weight": draw(2, 6),
    }  # fmt: skip
    save_file(stored, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "lora_alpha": 8, "r": rank, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return {name.removeprefix(pre): tensor for name, tensor in stored.items()}


def whole(stored, scale):
    """The fine-tuned model by the definitions, element by element where that is a product."""
    q = stored["enc.q.lora_B.weight"] @ stored["enc.q.lora_A.weight"]
    conv = torch.einsum("or,rihw->oihw", stored["enc.conv.lora_B.weight"][:, :, 0, 0], stored["enc.conv.lora_A.weight"])
    emb = (stored["emb.lora_embedding_B"] @ stored["emb.lora_embedding_A"]).T
    moved = {"enc.q.weight": q * scale, "enc.conv.weight": conv * scale, "emb.weight": emb * scale}
    return BASE | {name: BASE[name] + value for name, value in moved.items()} | {"head.weight": stored["head.weight"]}


@pytest.mark.parametrize(("config", "scale"), [
    ({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5), ({"lora_alpha": 1}, 0.5),
])  # fmt: skip
def test_adapters_merge_as_whole_models_do(tmp_path, config, scale):
    parts = [write(tmp_path / str(k), k, **config) for k in range(3)]
    adapters = [Adapter(tmp_path / str(k), BASE) for k in range(3)]
    tuned = [whole(stored, scale) for stored in parts]
    for rule in ("negmerge", "uniform", "magmax", "ties"):
        ours, theirs = dict(merge(BASE, adapters, rule=rule)), dict(merge(BASE, tuned, rule=rule))
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
        assert ours["ln.weight"].count_nonzero() == 0
    assert total(sign_agreement(BASE, adapters)).moved == total(sign_agreement(BASE, tuned)).moved
    mixed = dict(merge(BASE, [adapters[0], tuned[1]]))
    torch.testing.assert_close(
        mixed["enc.q.weight"], dict(merge(BASE, tuned[:2]))["enc.q.weight"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_kind_of_mapping_behind_the_base_changes_no_bit(tmp_path, rule):
    for k in range(2):
        write(tmp_path / str(k), k)
    adapters = [Adapter(tmp_path / str(k), BASE) for k in range(2)]
    expected = merge(BASE, adapters, rule=rule)
    deltas = dict(expected)
    for kind, base in (("lazy", Lazy(BASE)), ("unaligned", unaligned(tmp_path / "base.safetensors", BASE))):
        found = merge(base, [Adapter(tmp_path / str(k), base) for k in range(2)], rule=rule)
        for name, delta in found:
            assert torch.equal(delta, deltas[name]), (kind, name)
        assert found.counts == expected.counts and found.counts.moved > 0


def test_alpha_may_differ_by_module(tmp_path):
    stored = write(tmp_path / "a", 0, alpha_pattern={"enc.q": 2})
    adapter = Adapter(tmp_path / "a", BASE)
    torch.testing.assert_close(adapter["enc.q.weight"], whole(stored, 1.0)["enc.q.weight"] - BASE["enc.q.weight"],
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    assert adapter.layout()["enc.conv.weight"] == ((5, 3, 2, 2), torch.float32)
    assert is_adapter(tmp_path / "a") and not is_adapter(tmp_path)


def test_what_is_no_lora_of_this_base_is_refused(tmp_path):
    write(tmp_path / "a", 0)
    with pytest.raises(CheckpointError, match="which the base lacks"):
        Adapter(tmp_path / "a", {"other.weight": torch.ones(2)})
    for config, words in ([{"peft_type": "IA3"}, "IA3"], [{"lora_alpha": None}, "LORA adapters"]):
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1} | config))
        with pytest.raises(CheckpointError, match=words):
            Adapter(tmp_path / "a", BASE)
    (tmp_path / "a" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Adapter(tmp_path / "a", BASE)
    write(tmp_path / "b", 0)
    save_file({"base_model.model.enc.q.lora_A.weight": torch.ones(2, 4)}, tmp_path / "b" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="only one of two factors"):
        Adapter(tmp_path / "b", BASE)
    save_file({"base_model.model.enc.q.lora_magnitude_vector": torch.ones(6)},
              tmp_path / "b" / "adapter_model.safetensors")  # fmt: skip
    with pytest.raises(CheckpointError, match="DoRA"):
        Adapter(tmp_path / "b", BASE)
