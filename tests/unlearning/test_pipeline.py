"""What the command line does, as functions: search, unlearn, evaluate."""

import json

import pytest

from negmerge_kit import SearchOptions, open_pool, search_pool, unlearn_pool
from negmerge_kit.cards.files import read_card
from negmerge_kit.cli import main
from negmerge_kit.errors import CheckpointError, ParameterError
from negmerge_kit.pipeline import evaluate_file

GRID = (0.0, 0.1, 0.2, 0.3)


def without_seconds(result):
    return {key: value for key, value in result.items() if key != "seconds"}


@pytest.mark.slow
def test_search_pool_is_the_command(capsys, tiny_pool):
    found = search_pool(tiny_pool, SearchOptions(rule="uniform", scales=GRID), test=True, device="cpu")
    assert main(["search", str(tiny_pool), "--rule", "uniform", "--scales", "0:0.3:0.1", "--test", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert without_seconds(printed) == without_seconds(found.result)
    assert found.result["scale"] == found.found.best.scale > 0


@pytest.mark.slow
def test_unlearn_pool_writes_a_checkpoint_whose_card_says_what_it_scores(tiny_pool, tmp_path):
    unlearned = unlearn_pool(tiny_pool, tmp_path / "u.safetensors", SearchOptions(scales=GRID), device="cpu")
    assert unlearned.weights == tmp_path / "u.safetensors" and unlearned.card == tmp_path / "u.card.json"
    scores = evaluate_file(unlearned.weights, tiny_pool, device="cpu")
    assert (
        scores.forget.json()
        == unlearned.result["test"]["forget"]
        == read_card(unlearned.card)["scores"]["test"]["forget"]
    )


@pytest.mark.slow
def test_a_scale_by_hand_needs_no_search(tiny_pool, tmp_path):
    unlearned = unlearn_pool(tiny_pool, tmp_path / "u.safetensors", SearchOptions(scale=0.2), device="cpu")
    assert unlearned.result["scale"] == 0.2 and unlearned.result["keep"] is None


def test_nothing_feasible_writes_nothing(tiny_pool, tmp_path):
    options = SearchOptions(scales=(50.0,), keep=1.0)
    unlearned = unlearn_pool(tiny_pool, tmp_path / "u.safetensors", options, device="cpu")
    assert unlearned.result["status"] == "infeasible" and unlearned.weights is unlearned.card is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, error", [("u.pt", ParameterError), ("taken.safetensors", CheckpointError)])
def test_an_output_is_refused_before_the_search(tiny_pool, tmp_path, monkeypatch, name, error):
    (tmp_path / "taken.safetensors").write_text("notes")
    monkeypatch.setattr("negmerge_kit.pipeline.search_pool", lambda *given, **named: pytest.fail("searched"))
    with pytest.raises(error):
        unlearn_pool(open_pool(tiny_pool), tmp_path / name)
