"""Batch normalisation's running statistics: kept, merged or recalibrated, wherever an unlearned model is seen."""

import json
import shutil

import pytest
import torch

from negmerge_kit.cli import main
from negmerge_kit.errors import NotFiniteError, ParameterError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.unlearning.live_model import NEGATIVE_VARIANCE, RECALIBRATED_ON, largest_scale
from negmerge_kit.unlearning.workbench import Workbench

STATISTICS = ("running_mean", "running_var")


@pytest.fixture(scope="module")
def stand(classifier_pool, tmp_path_factory):
    folder = shutil.copytree(classifier_pool, tmp_path_factory.mktemp("pools") / "statistics")
    return Workbench(open_pool(folder), device="cpu")


def same(one, other, names=None):
    return all(torch.equal(one[name], other[name]) for name in names or one)


def statistics_of(weights):
    return [name for name in weights if name.endswith(STATISTICS)]


def test_kept_statistics_are_the_bases_though_training_moved_them(stand):
    base, tuned = dict(stand.pool.base), dict(stand.pool.candidates[0])
    assert not same(base, tuned, statistics_of(base))
    kept = dict(stand.unlearned(stand.choose(), 0.5))
    assert same(kept, base, statistics_of(base)) and not same(kept, base)


def test_merged_statistics_move_against_the_candidates(stand):
    base, choice = dict(stand.pool.base), stand.choose(buffers="merge", rule="uniform")
    merged = dict(stand.unlearned(choice, 0.1))
    mean = sum(candidate["features.1.running_mean"] for candidate in stand.pool.candidates) / 2
    expected = base["features.1.running_mean"] - 0.1 * (mean - base["features.1.running_mean"])
    assert torch.allclose(merged["features.1.running_mean"], expected, atol=1e-6)


def test_a_scale_at_which_a_merged_variance_is_negative_is_refused_and_skipped_by_searches(stand):
    choice = stand.choose(buffers="merge", rule="uniform")
    least = largest_scale(dict(stand.pool.base), stand.merged(choice).delta)
    assert 0 < least < 1000
    with pytest.raises(NotFiniteError, match=r"running_var would be negative at scale .*use buffers \"keep\""):
        stand.score(choice, 1.1 * least)
    search = stand.search(choice, scales=[0.0, 0.5 * least, 1.1 * least], method="exhaustive")
    assert [point.stopped for point in search.curve] == [None, None, NEGATIVE_VARIANCE]
    with stand.at(None, 0.0) as model:
        assert same(model.weights(), dict(stand.pool.base))


def test_recalibrated_statistics_are_those_of_the_unlearned_weights_on_remaining_images(stand):
    keep, choice = stand.choose(), stand.choose(buffers="recalibrate")
    base, scale = dict(stand.pool.base), 1.0
    written = dict(stand.unlearned(choice, scale))
    others = [name for name in base if name not in statistics_of(base)]
    assert same(written, dict(stand.unlearned(keep, scale)), others)
    assert not same(written, base, statistics_of(base))
    # By hand for the first layer: the mean over equal parts of what its convolution gives.
    images = stand.scene.parts.remaining.take(RECALIBRATED_ON).images
    with stand.at(keep, scale) as model, torch.no_grad():
        means = [model.tower.features[0](model.pixels(part)).mean(dim=(0, 2, 3)) for part in images.split(128)]
    assert len(images) == 8 * 128
    assert torch.allclose(written["features.1.running_mean"], torch.stack(means).mean(dim=0), atol=1e-5)


def test_scored_and_written_statistics_are_the_same_and_the_base_comes_back(stand):
    choice, base = stand.choose(buffers="recalibrate"), dict(stand.pool.base)
    with stand.at(choice, 0.8) as model:
        placed = model.weights()
    written = dict(stand.unlearned(choice, 0.8))
    assert same(placed, written, [name for name in base if base[name].dtype.is_floating_point])
    assert all(torch.equal(written[name], base[name]) for name in base if not base[name].dtype.is_floating_point)
    assert dict(stand.unlearned(choice, 0.0)).keys() == base.keys() and same(dict(stand.unlearned(choice, 0.0)), base)
    for other in (stand.choose(), None):
        with stand.at(other, 0.0) as model:
            assert same(model.weights(), base)
    assert stand.score(choice, 0.8).json() == stand.score(choice, 0.8).json()


def test_memory_that_runs_out_while_recalibrating_leaves_a_model_that_answers_as_before(stand, monkeypatch):
    choice = stand.choose(buffers="recalibrate")
    before = stand.score(choice, 0.4)
    pixels, calls = stand.model.pixels, []

    def full(images):
        calls.append(len(images))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no memory left")
        return pixels(images)

    monkeypatch.setattr(stand.model, "pixels", full)
    stand.score(choice, 0.3)
    assert len(calls) > 2 and not any(module.training for module in stand.model.network.modules())
    assert stand.score(choice, 0.4) == before == stand.score(choice, 0.4)


def test_points_of_another_policy_are_not_taken_for_ones_own(stand):
    curves = [
        [point.json() for point in stand.search(stand.choose(buffers=buffers), scales=[0.0, 1.0]).curve]
        for buffers in ("keep", "recalibrate", "keep")
    ]
    assert curves[0] == curves[2] != curves[1]


def test_where_nothing_can_be_recalibrated(stand, bench):
    with pytest.raises(ParameterError, match="tiny has no batch normalisation to recalibrate"):
        bench.choose(buffers="recalibrate")
    with pytest.raises(ParameterError, match="choose one of keep, merge, recalibrate"):
        stand.choose(buffers="reset")


def test_unlearn_writes_what_it_scored_and_verify_finds_it_again(classifier_pool, tmp_path, capsys):
    pool = shutil.copytree(classifier_pool, tmp_path / "pool")
    out, card = tmp_path / "unlearned.safetensors", tmp_path / "card.json"
    command = [
        "unlearn",
        str(pool),
        "--out",
        str(out),
        "--buffers",
        "recalibrate",
        "--scale",
        "0.5",
        "--device",
        "cpu",
        "--card",
        str(card),
        "--json",
    ]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(out), "--scene", str(pool), "--split", "val", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["retain"] == result["retain"]
    assert main(["verify", str(card), "--pool", str(pool), "--file", str(out), "--json"]) == 0, capsys.readouterr()
