"""The audit finds knowledge that was planted, finds none where there was none, and says what it cannot tell."""

import json
from dataclasses import replace

import pytest
import torch

from negmerge_kit.audits.audit import PROBES, Audit, audit, build_context
from negmerge_kit.audits.context import ProbedModel, SharedModel, few_of_each, shuffled
from negmerge_kit.audits.membership import membership
from negmerge_kit.audits.other_prompts import other_prompts
from negmerge_kit.audits.probe import LEFTOVER, NONE, OPEN, Measurement, Probe, alarms_first, judge
from negmerge_kit.audits.retrained_base import find_reference, retrained_reference
from negmerge_kit.errors import CheckpointError, MismatchError, ParameterError, SceneError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.training.pretraining import Pretraining
from negmerge_kit.unlearning.workbench import Workbench

READ_OFF = ("zero-shot", "linear", "neighbours")
BRIEF = Pretraining(epochs=1, warmup=20, seed=1)


@pytest.fixture(scope="module")
def own_bench(tiny_pool, tmp_path_factory):
    """The quick pool in a folder that may get a retrained model beside it."""
    import shutil

    return Workbench(open_pool(shutil.copytree(tiny_pool, tmp_path_factory.mktemp("audit") / "pool")), device="cpu")


@pytest.fixture(scope="module")
def without(own_bench):
    """A model pretrained without the family to forget, briefly."""
    return retrained_reference(own_bench, recipe=BRIEF)


@pytest.fixture(scope="module")
def hidden(own_bench):
    """The base with its last projection's outputs in another order: every answer is lost, nothing in the features is.

    The same as a head whose columns were swapped.
    """
    base = own_bench.fresh_model().weights("cpu")
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    return {**base, "visual.proj": base["visual.proj"][:, order]}


@pytest.mark.slow
@pytest.mark.parametrize("alone", [True, False])
def test_knowledge_that_was_only_hidden_is_found(own_bench, hidden, without, alone):
    found = audit(own_bench, unlearned=hidden, retrained=None if alone else without, probes=READ_OFF)
    named = {probe.name: probe for probe in found.probes}
    answers, linear, neighbours = (named[name] for name in ("zero-shot", "linear probe", "nearest neighbours"))
    assert answers.measurements["unlearned"].value < 0.25 < 0.75 < answers.measurements["base"].value
    assert linear.measurements["unlearned"] == linear.measurements["base"]
    assert linear.verdict == neighbours.verdict == LEFTOVER
    assert {"linear probe", "nearest neighbours"} <= set(found.leftover) and "Knowledge is left by: " in found.finding
    assert found.probes[-1] is answers and linear.left.value == neighbours.left.value == 1
    assert found.headline.startswith(f"{found.probes[0].name.capitalize()}: ") and "100 % of the way" in found.headline


@pytest.mark.slow
def test_a_model_trained_without_the_family_is_cleared(own_bench, without):
    found = audit(own_bench, unlearned=without, probes=(*READ_OFF, "prompts"))
    assert found.leftover == []
    named = {probe.name: probe for probe in found.probes}
    answers, linear = named["zero-shot"], named["linear probe"]
    assert answers.measurements["unlearned"].value < 0.25
    assert (
        linear.measurements["shuffled"].value
        < linear.measurements["unlearned"].value
        < linear.measurements["base"].value
    )
    assert linear.verdict == OPEN and found.scale is None
    same = audit(own_bench, unlearned=without, retrained=without, probes=("linear",))
    assert same.probes[0].verdict == NONE and same.leftover == []
    assert same.headline.endswith(
        f"at the level of the retrained model, {linear.measurements['unlearned'].value:.1%}; "
        f"the base, {linear.measurements['base'].value:.1%}.".replace("%", " %")
    )


@pytest.mark.slow
def test_the_retrained_model_is_kept_and_made_once(own_bench, without):
    steps = []
    again = retrained_reference(own_bench, recipe=BRIEF, on_step=lambda progress: steps.append(progress.step))
    assert not steps and find_reference(own_bench, recipe=BRIEF) is not None
    assert torch.equal(again["visual.proj"], without["visual.proj"])
    assert own_bench.pool.verify() == []


def case_of(bench, heads=None, steps=3):
    model = bench.fresh_model()
    shared, base = SharedModel(model), model.weights("cpu")
    models = {
        "base": ProbedModel("base", base, model.heads, shared),
        "unlearned": ProbedModel("unlearned", base, heads or model.heads, shared),
        "shuffled": ProbedModel("shuffled", shuffled(base), model.heads, shared),
    }
    return build_context(bench, models, steps=steps)


@pytest.mark.slow
def test_a_swapped_head_is_seen_through_by_other_prompts(bench):
    heads = {name: head.roll(1, 0) if name == "digits" else head for name, head in bench.model.heads.items()}
    (probe,) = other_prompts(case_of(bench, heads))
    assert probe.verdict == LEFTOVER
    assert probe.measurements["unlearned"].value == probe.measurements["base"].value > 0.7
    (honest,) = other_prompts(case_of(bench))
    assert honest.verdict == LEFTOVER  # no other head gets more, but this one names as much as the base does
    assert honest.left.value == 1 and honest.floor == ("chance", 0.1) and honest.good == "lower"


def test_membership_is_not_defined_where_nobody_knows_the_members(bench):
    probes = list(membership(replace(case_of(bench), members=None)))
    assert len(probes) == 2
    for probe in probes:
        told = probe.json()
        assert told["base"] is told["unlearned"] is told["chance"] is None and told["undefined"].startswith(
            "not defined"
        )


@pytest.mark.slow
def test_every_probe_of_a_merge_is_told_with_its_interval(bench):
    told = []
    choice = bench.choose()
    found = audit(bench, choice, 0.8, steps=3, on_probe=told.append)
    assert found.scale == 0.8 and alarms_first(told) == list(found.probes)
    ranked = [probe.left.low for probe in found.probes if probe.left]
    assert ranked == sorted(ranked, reverse=True) and all(probe.left for probe in found.probes[: len(ranked)])
    assert found.probes[0].name.capitalize() in found.headline and not found.finding.startswith("No")
    document = json.loads(json.dumps(found.json(), allow_nan=False))
    assert set(document) >= {"scale", "probes"}
    names = [probe["name"] for probe in document["probes"]]
    assert len(set(names)) == len(names) >= 20
    for probe in document["probes"]:
        assert probe["asks"].endswith("?") and set(probe) >= {
            "name",
            "asks",
            "base",
            "unlearned",
            "chance",
            "retrained",
        }
        assert probe["retrained"] is None and 0 <= probe["chance"] <= 1
        for who in ("base", "unlearned"):
            score = probe[who]
            assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1 and score["n"] > 0
    by_name = {probe["name"]: probe for probe in document["probes"]}
    for split, side in (("test", "zero-shot"),):
        for who, scores in (("base", bench.base_scores(split)), ("unlearned", bench.score(choice, 0.8, split))):
            assert by_name[side][who] == scores.forget.json()
            for name in bench.scene.retain:
                assert by_name[f"control {name}"][who] == scores.families[name].json()
    lost = [probe["details"]["change"] for probe in document["probes"] if probe["name"].startswith("control")]
    assert lost == sorted(lost) and len(lost) == 6
    for images in (1, 5, 20):
        steps = by_name[f"relearning from {images} a class"]["details"]
        for who in ("unlearned", "shuffled"):
            assert [look["step"] for look in steps[who]["curve"]] == [0, 1, 2, 3] and steps["images"] == 10 * images
    mass = by_name["nearest wrong class"]["details"]["unlearned"]["mass"]
    assert sum(mass.values()) == pytest.approx(1, abs=1e-5) and set(mass) == {"digits", *bench.scene.retain}
    # The bench is as it was.
    assert bench.score(choice, 0.0, "live") == bench.base_scores("live")


def hits(share, n=300, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize(
    ("unlearned", "retrained", "verdict"),
    [
        (0.9, None, LEFTOVER),
        (0.6, None, OPEN),
        (0.2, None, NONE),
        (0.9, 0.6, LEFTOVER),
        (0.6, 0.6, NONE),
        (0.4, 0.6, NONE),
    ],
)
def test_verdicts(unlearned, retrained, verdict):
    found = {"base": hits(0.9), "unlearned": hits(unlearned), "shuffled": hits(0.2)}
    assert judge(found | ({} if retrained is None else {"retrained": hits(retrained)})) == verdict


@pytest.mark.parametrize(("unlearned", "verdict"), [(0.85, LEFTOVER), (0.468, OPEN), (0.1, NONE)])
def test_without_shuffled_weights_chance_is_the_floor(unlearned, verdict):
    assert judge({"base": hits(0.85), "unlearned": hits(unlearned)}, chance=0.1) == verdict


def test_the_headline_is_the_most_alarming_number_with_what_it_is_read_against():
    def probe(name, base, unlearned, floor, verdict, n=1000, **more):
        read = {
            who: Measurement.share(torch.arange(n) < round(share * n), "test")
            for who, share in (("base", base), ("unlearned", unlearned))
        }
        return Probe(name, "?", read, 0.1, verdict, floor=floor, **more)

    found = Audit(
        0.8,
        tuple(
            alarms_first(
                [
                    probe("zero-shot", 0.72, 0.468, ("chance", 0.1), OPEN),
                    probe("linear probe", 0.821, 0.709, ("shuffled", 0.44), OPEN),
                    probe("confidence on forget", 0.7, 0.9, None, None),
                    probe("nearest neighbours", 0.8, 0.42, ("shuffled", 0.41), NONE),
                    probe("membership SVC", 0.2, 0.5, ("never seen", 0.6), None, n=20),
                ]
            )
        ),
        1.0,
    )
    assert [each.name for each in found.probes] == [
        "linear probe",
        "zero-shot",
        "nearest neighbours",
        "membership SVC",
        "confidence on forget",
    ]
    assert found.finding == (
        "Linear probe: 70.9 % (95 % interval 68.0-73.6, n = 1,000), 71 % of the way from shuffled weights, 44.0 %, to "
        "the base, 82.1 %. Undecided without a retrained model: linear probe, zero-shot. At the level of the floor: "
        "nearest neighbours."
    )
    # Knowledge lowers what a membership attack calls never seen: half-way down is half-way to the base.
    attack = found.probes[3].left
    assert attack.value == pytest.approx(0.25) and attack.low < 0 < attack.value < attack.high
    assert found.probes[3].says == "at the level of images it never saw, 60.0 %"
    assert found.json()["headline"] == found.headline
    assert found.json()["probes"][0]["left"] | {"floor": "shuffled", "at": 0.44} == found.json()["probes"][0]["left"]


def test_few_images_accuse_nobody():
    few = {"base": hits(0.9, 20), "unlearned": hits(0.8, 20), "shuffled": hits(0.2, 20)}
    assert judge(few) == OPEN


def test_a_base_that_shows_nothing_either_leaves_it_open():
    assert judge({"base": hits(0.2), "unlearned": hits(0.2), "shuffled": hits(0.2)}) == OPEN


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"probes": ("magic",)}, ParameterError, "linear"),
        ({"probes": ()}, ParameterError, "at least one probe"),
        ({"steps": 0}, ParameterError, "at least one"),
        ({"scale": None}, ParameterError, "nothing to audit"),
        ({"unlearned": {"w": torch.zeros(1)}}, MismatchError, "unlearned"),
        ({"retrained": {"w": torch.zeros(1)}}, MismatchError, "retrained"),
    ],
)
def test_wrong_input(bench, change, error, says):
    with pytest.raises(error, match=says):
        audit(bench, **{"choice": bench.choose(), "scale": 0.5, "probes": ("zero-shot",), **change})


@pytest.mark.slow
def test_a_broken_model_is_refused(bench):
    base = bench.fresh_model().weights("cpu")
    broken = {**base, "visual.proj": torch.full_like(base["visual.proj"], float("nan"))}
    with pytest.raises(CheckpointError, match="unlearned model answers with NaN"):
        audit(bench, unlearned=broken, probes=("zero-shot",))


def test_a_class_without_images_is_named(bench):
    context = case_of(bench)
    train = few_of_each(context.train, 3, seed=0)
    some = train.labels != 7
    with pytest.raises(SceneError, match="'7' of digits has no image on split train"):
        replace(context, train=replace(train, images=train.images[some], labels=train.labels[some]))


def test_a_set_of_one_class_cannot_be_probed(bench):
    context = case_of(bench)
    one = replace(context.train, labels=torch.zeros_like(context.train.labels), classes=("digit",))
    with pytest.raises(SceneError, match="one class"):
        replace(context, train=one)


def test_the_list_of_probes_is_in_the_flags_help(capsys):
    from negmerge_kit.cli import main

    with pytest.raises(SystemExit):
        main(["audit", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in PROBES)
