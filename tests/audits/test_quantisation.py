"""What rounding brings back is found, by how much, and what is rounded is what the page says."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from negmerge_kit.audits.audit import audit, build_context
from negmerge_kit.audits.context import ProbedModel, SharedModel
from negmerge_kit.audits.probe import LEFTOVER, NONE
from negmerge_kit.audits.quantisation import quantisation, quantised_names
from negmerge_kit.audits.rounding import PRECISIONS, round_to
from negmerge_kit.models.linearized import linearize
from negmerge_kit.models.load import load_model


def models_of(bench, unlearned, retrained=None):
    model = bench.fresh_model()
    shared = SharedModel(model)
    known = ProbedModel("base", model.weights("cpu"), model.heads, shared)
    models = {"base": known, "unlearned": known.with_weights("unlearned", unlearned)}
    if retrained is not None:
        models["retrained"] = known.with_weights("retrained", retrained)
    return build_context(bench, models)


@pytest.fixture(scope="module")
def brittle(bench):
    """A base of INT4 weights, and the same moved by less than half a step each, along what forgets most.

    Rounding takes this move back whole: the model that forgot becomes the base again.
    """
    model = bench.fresh_model()
    names = quantised_names(model)
    base = model.weights("cpu")
    base |= {name: round_to(base[name], "INT4") for name in names}
    model.load(base.items())
    images = bench.images("test").forget
    with torch.enable_grad():
        logits = model.encode(model.pixels(images.images)) @ model.heads[images.name].T
        loss = torch.nn.functional.cross_entropy(logits, images.labels.to(logits.device))
        gradients = torch.autograd.grad(loss, [dict(model.network.named_parameters())[name] for name in names])
    moved = dict(base)
    for name, gradient in zip(names, gradients, strict=True):
        flat = base[name].flatten(1)
        largest = flat.abs().amax(1, keepdim=True)
        push = 0.4 * largest / 7 * gradient.cpu().flatten(1).sign()
        moved[name] = torch.where(flat.abs() == largest, flat, flat + push).view_as(base[name])
    return base, moved


@pytest.mark.slow
def test_what_rounding_takes_back_is_knowledge_left(bench, brittle):
    base, moved = brittle
    names = quantised_names(bench.fresh_model())
    assert all(torch.equal(round_to(moved[name], "INT4"), base[name]) for name in names)
    context = models_of(bench, moved)
    context.models["base"].weights = base
    probes = {probe.name: probe for probe in quantisation(context)}
    assert list(probes) == [f"{precision} on {side}" for precision in PRECISIONS for side in ("forget", "retain")]
    full = {who: float(probed.hits(context.forget).double().mean()) for who, probed in context.asked.items()}
    back = probes["INT4 on forget"]
    assert full["unlearned"] < full["base"] - 0.2
    assert back.measurements["unlearned"] == back.measurements["base"] and back.verdict == LEFTOVER
    assert back.measurements["base"].value == full["base"] and back.left.value == 1
    moves = back.details["by_rounding"]
    assert moves["unlearned"]["value"] == pytest.approx(full["base"] - full["unlearned"])
    assert 0 < moves["unlearned"]["low"] < moves["unlearned"]["value"] < moves["unlearned"]["high"]
    assert moves["base"]["value"] == 0 and moves["base"]["low"] < 0 < moves["base"]["high"]
    kept = probes["INT4 on retain"]
    assert kept.measurements["unlearned"].n == sum(map(len, context.test.retain))
    assert kept.verdict is None and kept.left is None and kept.good == "higher"
    # Finer steps keep the move.
    for precision in ("bf16", "INT8"):
        assert probes[f"{precision} on forget"].measurements["unlearned"].value < full["base"] - 0.2


@pytest.mark.slow
def test_a_retrained_model_is_rounded_alike(bench, brittle):
    base, moved = brittle
    context = models_of(bench, moved, retrained=base)
    probes = {probe.name: probe for probe in quantisation(context)}
    back = probes["bf16 on forget"]
    assert back.measurements["retrained"].value > back.measurements["unlearned"].value
    assert back.verdict == NONE and back.floor == ("retrained", back.measurements["retrained"].value)


@pytest.mark.slow
def test_an_audit_asks_for_it_by_name(bench):
    found = audit(bench, bench.choose(), 0.5, probes=["quantisation"])
    assert len(found.probes) == 2 * len(PRECISIONS) and not found.headline.startswith("The probes that were asked")
    for probe in found.probes:
        assert set(probe.details["by_rounding"]) == set(probe.measurements) == {"base", "unlearned"}
        assert probe.measurements["unlearned"].split == "test"


def test_a_linear_model_is_rounded_around_its_base(bench):
    model = linearize(bench.fresh_model())
    base = ProbedModel("base", model.weights("cpu"), model.heads, SharedModel(model))
    images = bench.images("test").forget
    images = replace(images, images=images.images[:4], labels=images.labels[:4])
    name = "visual.proj"
    half = base.with_weights("half", base.weights | {name: base.weights[name] / 2})
    # The last projection is linear: half of it around the base is half the features, of unit length the same.
    assert torch.allclose(half.features(images), base.features(images), atol=1e-5)
    third = half.with_weights("again", half.weights)
    assert torch.equal(third.features(images), half.features(images))


def test_only_weights_of_linear_and_convolution_layers_are_rounded(bench):
    names = quantised_names(bench.model)
    layers = {name.split(".", 4)[-1] for name in names if "resblocks" in name}
    assert layers == {"attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}
    assert [name for name in names if "resblocks" not in name] == ["visual.conv1.weight"]


@pytest.mark.slow
def test_a_timm_tower_is_rounded_under_its_own_names(tmp_path):
    tower = timm.create_model("test_vit", num_classes=0)
    save_file(tower.state_dict(), tmp_path / "vit.safetensors")
    model = load_model(f"timm:test_vit/{tmp_path / 'vit.safetensors'}", device="cpu")
    names = quantised_names(model)
    assert set(names) <= model.weights().keys() and "patch_embed.proj.weight" in names
    assert {name.partition(".")[2].partition(".")[2] for name in names if name.startswith("blocks.")} == {
        "attn.qkv.weight",
        "attn.proj.weight",
        "mlp.fc1.weight",
        "mlp.fc2.weight",
    }
