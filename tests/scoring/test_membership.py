"""The membership attack against SalUn's own numbers, and calibration against a plain loop."""

import json
import math
from pathlib import Path

import pytest
import torch

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.calibration import calibration, top
from negmerge_kit.scoring.membership_attacks import FEATURES, attack_efficacy, threshold_efficacy

CASE = json.loads((Path(__file__).parents[1] / "golden" / "mia_case.json").read_text())
SETS = [(CASE["logits"][name], CASE["labels"][name]) for name in ("retain_train", "test", "forget")]


@pytest.mark.parametrize("name", CASE["expected_efficacy"])
def test_efficacies_are_the_authors(name):
    ours = "m_entropy_salun" if name == "m_entropy" else name
    assert attack_efficacy(*SETS, feature=ours) == pytest.approx(CASE["expected_efficacy"][name], abs=1e-9)


def test_the_formulas_of_modified_entropy():
    logits, labels = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
    for row, label, found in zip(
        logits.double().softmax(1).tolist(),
        labels.tolist(),
        FEATURES["m_entropy"](logits, labels).flatten().tolist(),
        strict=True,
    ):
        rest = sum(p * math.log(1 - p) for i, p in enumerate(row) if i != label)
        assert found == pytest.approx(-(1 - row[label]) * math.log(row[label]) - rest, rel=1e-5)
    for row, found in zip(
        logits.double().softmax(1).tolist(), FEATURES["m_entropy_salun"](logits, labels).flatten().tolist(), strict=True
    ):
        weights = [p if i == 1 else 1 - p for i, p in enumerate(row)]  # class 1 labels no image
        assert found == pytest.approx(-sum(w * math.log(p) for w, p in zip(weights, row, strict=True)), rel=1e-5)


def test_certainty_has_no_modified_entropy():
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    for name, feature in FEATURES.items():
        assert bool(torch.isfinite(feature(sure, torch.tensor([1]))).all()), name


def answers(n, margin, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=random)
    logits = torch.randn(n, 10, generator=random)
    logits[torch.arange(n), labels] += margin
    return logits, labels


def test_both_attacks_know_members_from_strangers():
    member, stranger = answers(300, 8.0, 1), answers(300, 2.0, 2)
    for attack in (attack_efficacy, threshold_efficacy):
        assert attack(member, stranger, answers(200, 8.0, 3)) < 0.25
        assert attack(member, stranger, answers(200, 2.0, 4)) > 0.75


def test_the_threshold_is_the_one_that_a_loop_finds():
    member, stranger, target = answers(60, 4.0, 5), answers(50, 2.0, 6), answers(40, 3.0, 7)
    seen, unseen, asked = (
        torch.nn.functional.cross_entropy(*pair, reduction="none") for pair in (member, stranger, target)
    )
    best = max(
        sorted({*seen.tolist(), *unseen.tolist()}),
        key=lambda cut: float((seen <= cut).double().mean() + (unseen > cut).double().mean()),
    )
    assert threshold_efficacy(member, stranger, target) == float((asked > best).double().mean())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"feature": "magic"}, "m_entropy_salun"),
        ({"target": ([[math.nan, 0.0]], [0])}, "NaN"),
        ({"target": ([[1.0, 0.0]], [2])}, "labels outside"),
        ({"target": ([[1.0, 0.0, 0.0]], [2])}, "class counts"),
        ({"target": ([], [])}, "at least one"),
        ({"target": ([[1.0, 0.0]], [0, 1])}, "labels"),
    ],
)
def test_answers_that_do_not_fit(change, says):
    pair = ([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    with pytest.raises(ParameterError, match=says):
        attack_efficacy(**{"member": pair, "nonmember": pair, "target": pair, **change})


def test_calibration_error_is_a_loops():
    random = torch.Generator().manual_seed(0)
    confidence = torch.rand(500, generator=random, dtype=torch.float64)
    confidence[:3] = torch.tensor([0.0, 1.0, 1 / 15])
    correct = torch.rand(500, generator=random) < 0.6
    expected = 0.0
    for place in range(15):
        low, high = place / 15, (place + 1) / 15
        inside = [
            (c, r)
            for c, r in zip(confidence.tolist(), correct.tolist(), strict=True)
            if low < c <= high or (place == 0 and c == 0)
        ]
        expected += abs(sum(r - c for c, r in inside)) / 500
    assert calibration(confidence, correct, split="test").ece == pytest.approx(expected, abs=1e-12)


def test_a_calibrated_model_lies_at_its_floor_and_a_boaster_above_it():
    logits = torch.randn(2000, 5, generator=torch.Generator().manual_seed(1)) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(2)).flatten()
    honest = calibration(*top(logits, labels), split="test")
    assert honest.floor / 2 < honest.ece < 2 * honest.floor
    low, high = honest.confidence_interval
    assert low < honest.confidence < high and honest.n == 2000
    boaster = calibration(*top(4 * logits, labels), split="test")
    assert boaster.ece_interval[0] > 3 * boaster.floor
    assert calibration(*top(logits, labels), split="test") == honest


def test_calibration_refuses_damaged_answers():
    with pytest.raises(ParameterError, match="NaN"):
        top(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    with pytest.raises(ParameterError, match="outside"):
        calibration(torch.tensor([1.5]), torch.tensor([1]), split="test")
