"""The search for a baseline's rate: every try logged and charged, the best kept, stopped searches continued."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from negmerge_kit.baselines import BASELINES
from negmerge_kit.baselines.rate_search import choose_rate
from negmerge_kit.errors import CheckpointError, DivergedError, NotFiniteError, ParameterError
from negmerge_kit.pools import result_store
from negmerge_kit.training.recipe import Recipe
from tests.baselines.two_weights import TwoWeights, images_of, parted

RECIPE = Recipe(lr=0.25, epochs=2)
ASCENT = BASELINES["gradient-ascent"]
BASE = (0.8, -0.3)


def search(score, rates, model=None, **more):
    parts = parted(
        forgotten=images_of("forgotten", [51, 230], [0, 1]), remaining=images_of("remaining", [20, 200], [1, 0])
    )
    return choose_rate(
        ASCENT,
        model or TwoWeights(*BASE),
        parts,
        score,
        rates=rates,
        **{"epochs": 2, "fresh": TwoWeights, "recipe": RECIPE} | more,
    )


def rate_of(at):
    """The rate that a step among those of several is of, as its message says."""
    return float(re.fullmatch(r"rate (\S+) \(\d of \d\), step", at.message)[1])


def test_every_try_is_logged_and_the_best_one_is_kept():
    model, told, order = TwoWeights(*BASE), {}, []

    def score(tried):
        told[order[-1]] = tried.w
        return abs(order[-1] - 0.3)

    choice = search(
        score,
        [1.0, 0.25, 0.5],
        model,
        scored_by="distance",
        on_step=lambda at: order.append(rate_of(at)) if at.step % 2 else None,
    )
    assert order == [0.25, 0.5, 1.0] == [trial.rate for trial in choice.trials]
    assert choice.chosen.rate == 0.25 and choice.scored_by == "distance" and choice.dial == "learning rate"
    assert [trial.score for trial in choice.trials] == pytest.approx([0.05, 0.2, 0.7])
    assert all(trial.status == "ok" and trial.steps == 2 and trial.seconds > 0 for trial in choice.trials)
    assert choice.seconds == pytest.approx(sum(trial.seconds for trial in choice.trials))
    assert np.array_equal(model.w, told[0.25]) and not np.array_equal(told[0.25], told[0.5])
    plain = json.loads(json.dumps(choice.json()))
    assert plain["chosen"]["rate"] == 0.25 and len(plain["trials"]) == 3 and plain["params"]["momentum"] == 0.9
    # The same rate alone, from the base's weights: the tries do not build on one another.
    alone = TwoWeights(*BASE)
    search(lambda tried: 0.0, [0.25], alone)
    assert np.array_equal(alone.w, told[0.25])


def test_the_steps_of_all_rates_are_counted_as_one_run(tmp_path):
    """Two of each rate; where the best one is made again at the end, the count does not begin again either."""

    def seen(rates, **more):
        steps = []
        search(lambda model: abs(model.w[0] - 0.8), rates, on_step=steps.append, **more)
        return [(rate_of(at), at.message.partition(" (")[2][0], at.step, at.total) for at in steps]

    assert seen([0.25, 0.5, 1.0]) == [
        (0.25, "1", 1, 6),
        (0.25, "1", 2, 6),
        (0.5, "2", 3, 6),
        (0.5, "2", 4, 6),
        (1.0, "3", 5, 6),
        (1.0, "3", 6, 6),
    ]
    seen([0.25, 0.5], store=tmp_path)
    assert seen([0.25, 0.5], store=tmp_path) == [(0.25, "2", 3, 4), (0.25, "2", 4, 4)]
    alone = []
    search(lambda model: 0.0, [0.5], on_step=alone.append)
    assert [at.message for at in alone] == ["step", "step"]


def test_ties_take_the_smaller_rate_and_without_rates_it_is_the_recipes():
    assert search(lambda model: 0.5, [0.5, 0.125]).chosen.rate == 0.125
    assert [trial.rate for trial in search(lambda model: 0.5, ()).trials] == [0.25]


def test_what_diverges_is_recorded_and_never_chosen():
    def score(model):
        size = np.abs(model.w).max()
        if size > 1e5:
            raise NotFiniteError("the model answers with NaN: its weights are damaged.")
        return float("nan") if size > 10 else size

    model = TwoWeights(*BASE)
    choice = search(score, [0.1, 1e3, 1e6, 1e38], model)
    assert [trial.status for trial in choice.trials] == ["ok", "diverged", "diverged", "diverged"]
    assert [trial.score for trial in choice.trials[1:]] == [None] * 3
    reasons = [trial.reason for trial in choice.trials]
    assert reasons[0] is None and "scores nan" in reasons[1] and "NaN" in reasons[2] and "became" in reasons[3]
    assert choice.chosen.rate == 0.1 and np.abs(model.w).max() < 10
    assert choice.seconds > choice.chosen.seconds
    json.dumps(choice.json(), allow_nan=False)


def test_all_diverged_is_one_sentence_and_the_base_is_back():
    model = TwoWeights(*BASE)
    with pytest.raises(
        DivergedError,
        match="^gradient-ascent diverged with every learning rate of 1e\\+37, 1e\\+38: give smaller ones.$",
    ) as told:
        search(lambda model: 0.0, [1e38, 1e37], model)
    assert [trial["rate"] for trial in told.value.trials] == [1e37, 1e38]
    assert told.value.seconds == sum(trial["seconds"] for trial in told.value.trials) > 0
    assert model.w == pytest.approx(BASE)


def test_a_stopped_search_goes_on(tmp_path, monkeypatch):
    def scored(model):
        tries.append(1)
        return abs(model.w[0] - 0.8)

    def stop(step):
        if rate_of(step) == 0.5:
            raise KeyboardInterrupt

    tries, model = [], TwoWeights(*BASE)
    with pytest.raises(KeyboardInterrupt):
        search(scored, [0.25, 0.5], model, store=tmp_path, on_step=stop)
    assert model.w == pytest.approx(BASE) and len(tries) == 1
    assert not model.network.training and not model.tower.weight.requires_grad
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["value"]["rate"] == 0.25
    again = search(scored, [0.25, 0.5], model, store=tmp_path)
    assert again.chosen.rate == 0.25 and len(tries) == 3  # 0.5, and the best one made again
    whole = TwoWeights(*BASE)
    straight = search(scored, [0.25, 0.5], whole)
    assert np.array_equal(model.w, whole.w) and straight.chosen.score == again.chosen.score
    # Another seed, another base or another measure is another search.
    search(scored, [0.25], store=tmp_path, seed=1)
    search(scored, [0.25], TwoWeights(0.1, 0.2), store=tmp_path)
    search(scored, [0.25], store=tmp_path, scored_by="gap")
    assert len(list(tmp_path.iterdir())) == 2 + 3
    # So is what another version of the kit or another torch computes, or another kind of device.
    for name, value in (("RESULTS_VERSION", -1), ("torch", SimpleNamespace(__version__="1"))):
        monkeypatch.setattr(result_store, name, value)
        search(scored, [0.25], store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 + 5
    assert result_store.made_with(torch.device("cuda")).items() - result_store.made_with(torch.device("cpu")).items()
    # What was kept is not looked at where it is to be made anew.
    tries.clear()
    search(scored, [0.25], store=tmp_path)
    assert len(tries) == 1
    search(scored, [0.25], store=tmp_path, recompute=True)
    assert len(tries) == 2 and len(list(tmp_path.iterdir())) == 2 + 5


def test_bad_requests(tmp_path):
    with pytest.raises(ParameterError, match="give each rate once"):
        search(lambda model: 0.0, [0.1, 0.1])
    with pytest.raises(ParameterError, match="has no parameter 'alpha'"):
        search(lambda model: 0.0, [0.1], params={"alpha": 1})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be made"):
        search(lambda model: 0.0, [0.1], store=tmp_path / "file")


def test_a_trial_that_cannot_be_read_is_made_again(tmp_path):
    def score(model):
        tries.append(1)
        return 0.0

    tries = []
    first = search(score, [0.1], store=tmp_path)
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text())
    for damaged in ("{", json.dumps(record | {"value": {"rate": 0.1}}), json.dumps(record | {"value": [3]})):
        file.write_text(damaged)
        before = len(tries)
        assert search(score, [0.1], store=tmp_path).chosen.score == first.chosen.score and len(tries) == before + 1
        assert json.loads(file.read_text())["value"]["score"] == 0.0
