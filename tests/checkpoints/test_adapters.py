"""LoRA adapters merge as the whole checkpoints of the same models do, or are refused with the remedy."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from negmerge_kit.checkpoints.adapters import Adapter, is_adapter
from negmerge_kit.checkpoints.merge_files import merge_files, open_candidate
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
        f"{pre}enc.q.lora_A.weight": draw(rank, 4),
        f"{pre}enc.q.lora_B.weight": draw(6, rank),
        f"{pre}enc.conv.lora_A.weight": draw(rank, 3, 2, 2),
        f"{pre}enc.conv.lora_B.weight": draw(5, rank, 1, 1),
        f"{pre}emb.lora_embedding_A": draw(rank, 10),
        f"{pre}emb.lora_embedding_B": draw(4, rank),
        f"{pre}head.weight": draw(2, 6),
    }
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


@pytest.mark.parametrize(("config", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5), ({"lora_alpha": 1}, 0.5)])
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
    torch.testing.assert_close(
        adapter["enc.q.weight"], whole(stored, 1.0)["enc.q.weight"] - BASE["enc.q.weight"], rtol=1e-4, atol=1e-5
    )
    assert adapter.layout()["enc.conv.weight"] == ((5, 3, 2, 2), torch.float32)
    assert is_adapter(tmp_path / "a") and not is_adapter(tmp_path)


def test_what_is_no_lora_of_this_base_is_refused(tmp_path):
    write(tmp_path / "a", 0)
    with pytest.raises(CheckpointError, match="which the base lacks"):
        Adapter(tmp_path / "a", {"other.weight": torch.ones(2)})
    for config, words in ([{"peft_type": "IA3"}, "IA3"], [{"lora_alpha": None}, "lora_alpha None, where a finite"]):
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
    save_file(
        {"base_model.model.enc.q.lora_magnitude_vector": torch.ones(6)}, tmp_path / "b" / "adapter_model.safetensors"
    )
    with pytest.raises(CheckpointError, match="DoRA"):
        Adapter(tmp_path / "b", BASE)


@pytest.mark.parametrize(
    ("pattern", "scale"),
    [
        ("enc.q", 1.0),
        ("q", 1.0),
        (r".*enc\..*q", 1.0),
        (r"^enc\.q", 1.0),
        (r"enc\.(k|q)", 1.0),
        ("nc.q", 4.0),
        ("enc", 4.0),
        ("enc.q.weight", 4.0),
        (r"^q", 4.0),
    ],
)
def test_a_pattern_is_a_regular_expression_for_the_end_of_a_module(tmp_path, pattern, scale):
    stored = write(tmp_path / "a", 0, alpha_pattern={pattern: 2, "enc.q": 2} if scale == 1 else {pattern: 2})
    delta = Adapter(tmp_path / "a", BASE)["enc.q.weight"]
    torch.testing.assert_close(delta, stored["enc.q.lora_B.weight"] @ stored["enc.q.lora_A.weight"] * scale)


def test_the_first_pattern_counts_and_ranks_are_the_configured_ones(tmp_path):
    write(tmp_path / "a", 0, alpha_pattern={".*q": 2, "enc.q": 64}, rank_pattern={"conv": 2}, r=2)
    assert Adapter(tmp_path / "a", BASE)._scale("enc.q.weight") == 1.0
    write(tmp_path / "b", 0, rank_pattern={r".*\.q": 4})
    with pytest.raises(CheckpointError, match="the configuration gives it rank 4"):
        Adapter(tmp_path / "b", BASE)


@pytest.mark.parametrize(
    "config",
    [
        {"alpha_pattern": {"(a+)+": 2}},
        {"alpha_pattern": {"(": 2}},
        {"alpha_pattern": {"q": "big"}},
        {"alpha_pattern": {"q": float("nan")}},
        {"rank_pattern": {"q": 0}},
        {"rank_pattern": ["q"]},
        {"r": 2.5},
        {"lora_alpha": True},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"q" * 2000: 2}},
    ],
)
def test_a_configuration_that_is_none_is_one_sentence(tmp_path, config):
    write(tmp_path / "a", 0, **config)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json (has|cannot be read)"):
        Adapter(tmp_path / "a", BASE)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "Gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_that_leave_the_base_alone_merge(tmp_path, start):
    write(tmp_path / "a", 0, init_lora_weights=start)
    assert len(Adapter(tmp_path / "a", BASE)) == 4


@pytest.mark.parametrize(
    ("start", "cure"),
    [
        ("pissa", "path_initial_model_for_weight_conversion"),
        ("pissa_niter_16", "path_initial_model"),
        ("olora", "path_initial_model"),
        ("OLoRA", "path_initial_model"),
        ("corda", "path_initial_model"),
        ("lora_ga", "path_initial_model"),
        ("loftq", "give the whole checkpoint"),
        ("next_year's", "whole checkpoint"),
        (3, "whole checkpoint"),
    ],
)
def test_initialisations_that_change_the_base_are_refused(tmp_path, start, cure):
    write(tmp_path / "a", 0, init_lora_weights=start)
    with pytest.raises(CheckpointError, match=f"init_lora_weights .* not known to leave the base alone.*{cure}"):
        Adapter(tmp_path / "a", BASE)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("use_dora", True),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 1e-4}),
        ("arrow_config", {"top_k": 2}),
        ("alora_invocation_tokens", [1, 2]),
        ("layer_replication", [[0, 2]]),
        ("target_parameters", ["experts.gate"]),
        ("trainable_token_indices", [3]),
    ],
)
def test_variants_whose_change_is_no_product_are_refused(tmp_path, entry, value):
    write(tmp_path / "a", 0, **{entry: value})
    with pytest.raises(CheckpointError, match=f"{entry}.*give the whole checkpoint"):
        Adapter(tmp_path / "a", BASE)


def spoilt(tmp_path, tensors, **config):
    """An adapter of one module whose tensors are replaced."""
    folder = tmp_path / "a"
    folder.mkdir()
    stored = {"lora_A.weight": torch.ones(2, 4), "lora_B.weight": torch.ones(6, 2)} | tensors
    save_file(
        {f"base_model.model.enc.q.{n}": t for n, t in stored.items() if t is not None},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8, "r": 2} | config))
    return folder


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_A.weight": torch.ones(3, 4)}, "of another rank"),
        ({"lora_A.weight": torch.ones(4, 4), "lora_B.weight": torch.ones(6, 4)}, "gives it rank 2"),
        ({"lora_A.weight": torch.ones(2, 5)}, r"no change of \[6, 4\]"),
        ({"lora_A.weight": torch.ones(8)}, "not gathered"),
        ({"lora_A.weight": torch.ones(0, 4), "lora_B.weight": torch.ones(6, 0)}, "not gathered"),
        ({"lora_A.weight": torch.ones(2, 4, 1, 1)}, "not gathered"),
        ({"lora_A.weight": torch.ones(2, 4, 1, 1), "lora_B.weight": torch.ones(6, 2, 1, 1)}, "no change of"),
        ({"lora_A.weight": torch.ones(2, 4, dtype=torch.int32)}, "factors are floating"),
        ({"lora_B.weight": None}, "only one of two factors"),
        ({"lora_A.weight": None, "lora_B.weight": None, "lora_B.bias": torch.ones(6)}, "which the base lacks"),
        ({"base_layer.out_proj.lora_A.weight": torch.ones(2, 4)}, "applies twice"),
        ({"lora_diag": torch.ones(2)}, "another kind of adapter"),
        ({"token_adapter.trainable_tokens_delta": torch.ones(2)}, "another kind of adapter"),
    ],
)
def test_factors_that_do_not_fit_are_one_sentence(tmp_path, tensors, words):
    with pytest.raises(CheckpointError, match=words):
        Adapter(spoilt(tmp_path, tensors), BASE)


def test_a_head_that_the_base_lacks_has_its_own_sentence(tmp_path):
    write(tmp_path / "a", 0)
    with pytest.raises(CheckpointError, match=r"head.weight whole .modules_to_save., which the base lacks"):
        Adapter(tmp_path / "a", {name: tensor for name, tensor in BASE.items() if not name.startswith("head")})


def test_half_precision_factors_are_multiplied_in_single(tmp_path):
    a, b = torch.randn(2, 4), torch.randn(6, 2)
    folder = spoilt(tmp_path, {"lora_A.weight": a.bfloat16(), "lora_B.weight": b.half()})
    torch.testing.assert_close(
        Adapter(folder, BASE)["enc.q.weight"], b.half().float() @ a.bfloat16().float() * 4, rtol=1e-6, atol=1e-6
    )


def test_an_embedding_saved_whole_next_to_its_factors_counts_both(tmp_path):
    stored = write(tmp_path / "a", 0)
    moved = BASE["emb.weight"] + 1
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file(
        {f"base_model.model.{n}": t for n, t in stored.items()} | {"base_model.model.emb.base_layer.weight": moved},
        file,
    )
    torch.testing.assert_close(
        Adapter(tmp_path / "a", BASE)["emb.weight"], whole(stored, 4.0)["emb.weight"] - BASE["emb.weight"] + 1
    )


def test_a_bias_of_the_factors_moves_the_bias(tmp_path):
    base = BASE | {"enc.q.bias": torch.zeros(6)}
    folder = spoilt(tmp_path, {"lora_B.bias": torch.arange(6.0)}, lora_bias=True)
    assert Adapter(folder, base)["enc.q.bias"].tolist() == [0, 4, 8, 12, 16, 20]


def test_the_shapes_say_how_a_weight_is_stored(tmp_path):
    """PEFT's fan_in_fan_out is that of the last layer made, so one flag cannot speak for all layers."""
    a, b = torch.randn(2, 4), torch.randn(6, 2)
    folder = spoilt(tmp_path, {"lora_A.weight": a, "lora_B.weight": b})
    turned = {"enc.q.weight": torch.zeros(4, 6)}
    torch.testing.assert_close(Adapter(folder, turned)["enc.q.weight"], (b @ a * 4).T)
    square = tmp_path / "b"
    square.mkdir()
    names = {"enc.q": (4, 6), "enc.s": (4, 4)}
    save_file(
        {f"base_model.model.{n}.lora_A.weight": torch.ones(2, i) for n, (i, o) in names.items()}
        | {f"base_model.model.{n}.lora_B.weight": torch.ones(o, 2) for n, (i, o) in names.items()},
        square / "adapter_model.safetensors",
    )
    base = {f"{n}.weight": torch.zeros(shape) for n, shape in names.items()}
    for flag in (True, False):
        config = {"peft_type": "LORA", "lora_alpha": 8, "r": 2, "fan_in_fan_out": flag}
        (square / "adapter_config.json").write_text(json.dumps(config))
        if flag:
            assert len(Adapter(square, base)) == 2
        else:
            with pytest.raises(CheckpointError, match="does not say whether enc.s.weight"):
                Adapter(square, base)


UNET = {"down.attn.to_q.weight": torch.zeros(6, 4), "down.attn.to_out.0.weight": torch.zeros(4, 4)}


def diffusers(path, tensors, metadata=None):
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("unet.down.attn.to_q.lora_A.weight", "unet.down.attn.to_q.lora_B.weight"),
        ("unet.down.attn.to_q.lora.down.weight", "unet.down.attn.to_q.lora.up.weight"),
        ("unet.down.attn.processor.to_q_lora.down.weight", "unet.down.attn.processor.to_q_lora.up.weight"),
        ("down.attn.to_q.lora_A.weight", "down.attn.to_q.lora_B.weight"),
    ],
)
def test_diffusers_weights_without_a_configuration(tmp_path, names):
    a, b = torch.randn(2, 4), torch.randn(6, 2)
    file = diffusers(tmp_path / "pytorch_lora_weights.safetensors", dict(zip(names, (a, b), strict=True)))
    for path in (file, tmp_path):
        candidate = open_candidate(path, UNET)
        assert isinstance(candidate, Adapter) and candidate.files == (file,)
        torch.testing.assert_close(dict(candidate), {"down.attn.to_q.weight": b @ a})  # no alpha: a scale of 1


def test_diffusers_alphas_count_as_tensors_and_as_configuration(tmp_path):
    a, b = torch.randn(2, 4), torch.randn(4, 2)
    names = ("unet.down.attn.processor.to_out_lora.down.weight", "unet.down.attn.processor.to_out_lora.up.weight")
    tensors = dict(zip(names, (a, b), strict=True))
    alpha = {"unet.down.attn.processor.to_out_lora.alpha": torch.tensor(8.0)}
    file = tmp_path / "pytorch_lora_weights.safetensors"
    name = "down.attn.to_out.0.weight"
    torch.testing.assert_close(Adapter(diffusers(file, tensors | alpha), UNET)[name], b @ a * 4)
    config = {"unet.lora_alpha": 16, "unet.r": 2, "unet.alpha_pattern": {r"to_out\.0": 6}, "text_encoder.r": 1}
    record = {"lora_adapter_metadata": json.dumps(config)}
    torch.testing.assert_close(Adapter(diffusers(file, tensors, record), UNET)[name], b @ a * 3)
    with pytest.raises(CheckpointError, match="alpha twice"):
        Adapter(diffusers(file, tensors | alpha, record), UNET)
    for bad, words in (
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps(config | {"unet.init_lora_weights": "pissa"}), "pissa"),
    ):
        with pytest.raises(CheckpointError, match=words):
            Adapter(diffusers(file, tensors, {"lora_adapter_metadata": bad}), UNET)
    alpha = {"unet.down.attn.processor.to_out_lora.alpha": torch.tensor([float("nan")])}
    with pytest.raises(CheckpointError, match="no finite number"):
        Adapter(diffusers(file, tensors | alpha), UNET)


def test_a_part_of_the_pipeline_that_is_not_the_base_is_named(tmp_path):
    a, b = torch.randn(2, 4), torch.randn(6, 2)
    tensors = {
        "unet.down.attn.to_q.lora_A.weight": a,
        "unet.down.attn.to_q.lora_B.weight": b,
        "text_encoder.layers.0.q_proj.lora_linear_layer.down.weight": torch.ones(2, 3),
        "text_encoder.layers.0.q_proj.lora_linear_layer.up.weight": torch.ones(3, 2),
    }
    file = diffusers(tmp_path / "pytorch_lora_weights.safetensors", tensors)
    with pytest.warns(UserWarning, match=r"also adapts text_encoder \(2 tensors\)"):
        assert list(Adapter(file, UNET)) == ["down.attn.to_q.weight"]
    with pytest.warns(UserWarning, match="also adapts unet"):
        text = Adapter(file, {"layers.0.q_proj.weight": torch.zeros(3, 3)})
    assert text["layers.0.q_proj.weight"].tolist() == [[2.0] * 3] * 3
    with pytest.raises(CheckpointError, match="text_encoder .* and unet .* no tensor of which is in the base"):
        Adapter(file, {"other.weight": torch.zeros(2, 2)})
    more = tensors | {"unet.up.to_q.lora_A.weight": a.clone(), "unet.up.to_q.lora_B.weight": b.clone()}
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"adapts up.to_q.weight, which the base"):
        Adapter(diffusers(file, more), UNET)


def test_a_lora_file_of_unknown_scale_is_refused(tmp_path):
    """Factors alone do not say their alpha; only diffusers' files have a rule for that."""
    write(tmp_path / "a", 0)
    file = tmp_path / "a" / "adapter_model.safetensors"
    assert isinstance(open_candidate(file, BASE), Adapter)  # its configuration is next to it
    (tmp_path / "a" / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"nothing of their alpha.*adapter_config.json next to it"):
        open_candidate(file, BASE)
    kohya = diffusers(tmp_path / "k.safetensors", {"lora_unet_down_to_q.lora_down.weight": torch.ones(2, 4)})
    with pytest.raises(CheckpointError, match="kohya.*save_lora_weights"):
        open_candidate(kohya, BASE)


def test_a_pickled_adapter_names_the_conversion(tmp_path):
    write(tmp_path / "a", 0)
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="negmerge convert"):
        open_candidate(tmp_path / "a", BASE)


def test_adapters_of_a_part_are_taken_by_prefix(tmp_path):
    write(tmp_path / "a", 0, alpha_pattern={"^enc.q": 2})
    part = Adapter(
        tmp_path / "a", {"q.weight": BASE["enc.q.weight"], "conv.weight": BASE["enc.conv.weight"]}, prefix="enc."
    )
    full = Adapter(tmp_path / "a", BASE)
    assert set(part) == {"q.weight", "conv.weight"}
    torch.testing.assert_close(part["q.weight"], full["enc.q.weight"])


def test_files_of_adapters_merge_from_files(tmp_path):
    save_file(BASE, tmp_path / "base.safetensors")
    for k in range(2):
        write(tmp_path / str(k), k, alpha_pattern={".*q": 64})
    told = merge_files(
        tmp_path / "base.safetensors",
        [tmp_path / "0", tmp_path / "1" / "adapter_model.safetensors"],
        out=tmp_path / "out.safetensors",
        scale=0.5,
        rule="uniform",
    )
    assert told["moved"] > 0 and (tmp_path / "out.safetensors").exists()


def test_an_adapter_on_the_hub_is_an_adapter(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    snapshots = tmp_path / "models--owner--name" / "snapshots"
    snapshots.mkdir(parents=True)
    write(snapshots / commit, 0)
    assert isinstance(open_candidate(f"hf:owner/name@{commit}", BASE), Adapter)
