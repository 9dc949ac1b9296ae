"""What does not fit on a device: candidates rounded or read from disk, passes halved, the same numbers, no crash."""

import json
from dataclasses import replace

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, sha256_file
from negmerge_kit.errors import DeviceError, PoolError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.merging.rules import RULES
from negmerge_kit.models.classifier import BATCH
from negmerge_kit.models.clip import ClipClassifier
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.unlearning import delta_cache
from negmerge_kit.unlearning.delta_cache import choose_memory_mode
from negmerge_kit.unlearning.workbench import Workbench
from tests.merging.test_kinds_of_mappings import unaligned

GIB = 1 << 30


def workbench(tiny_pool, monkeypatch, free=None):
    """A workbench that has found so many bytes left on its device."""
    made = Workbench(open_pool(tiny_pool), device="cpu", memory="none")
    with monkeypatch.context() as patch:
        patch.setattr(delta_cache, "free_memory", lambda device: free)
        made.agreement(made.pool.ids[:1])
    return made


def out_of_memory(times):
    """A function that raises so many times before it does what it stands for."""

    def wrap(function):
        def call(*args, **kwargs):
            if call.left:
                call.left -= 1
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            return function(*args, **kwargs)

        call.left = times
        return call

    return wrap


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (None, "float32"),
        (80 * GIB, "float32"),
        (14 * GIB, "float32"),
        (10 * GIB, "bfloat16"),
        (4 * GIB, "streamed"),
        (0, "streamed"),
    ],
)
def test_thirty_vit_b_32_candidates_live_where_they_fit(free, expected):
    moved = 88_000_000 * 4  # the image tower
    assert choose_memory_mode(30 * moved, 15 * moved, moved, free) == expected


def test_weights_stored_in_half_precision_gain_nothing_by_rounding():
    assert choose_memory_mode(100, 100, 1, 110) == "streamed"


@pytest.fixture
def moved(bench):
    return sum(tensor.nbytes for tensor in bench.merged(bench.choose()).delta.values())


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(RULES))
def test_streamed_candidates_give_the_same_bits_by_every_rule(tiny_pool, bench, monkeypatch, rule):
    streamed = workbench(tiny_pool, monkeypatch, free=0)
    choice = bench.choose(rule=rule)
    ours, theirs = bench.merged(choice), streamed.merged(choice)
    assert theirs.counts == ours.counts and theirs.delta.keys() == ours.delta.keys()
    assert all(theirs.delta[name].equal(tensor) for name, tensor in ours.delta.items())
    assert streamed.agreement() == bench.agreement()
    assert "read from disk" in streamed.given_up and not bench.given_up


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(RULES))
def test_a_pool_of_files_that_are_not_aligned_gives_the_same_bits_by_every_rule(own_pool, bench, monkeypatch, rule):
    record = json.loads((own_pool / "pool.json").read_text())
    for entry in record["candidates"]:
        path = own_pool / entry["file"]
        unaligned(path, dict(open_checkpoint(path)))
        entry["sha256"] = sha256_file(path)
    (own_pool / "pool.json").write_text(json.dumps(record))
    choice = bench.choose(rule=rule)
    ours = bench.merged(choice)
    for free in (None, 0):
        other = workbench(own_pool, monkeypatch, free=free)
        theirs = other.merged(other.choose(rule=rule))
        assert theirs.counts == ours.counts and theirs.delta.keys() == ours.delta.keys()
        assert all(theirs.delta[name].equal(tensor) for name, tensor in ours.delta.items())
        assert other.agreement() == bench.agreement()


@pytest.mark.slow
def test_a_candidate_that_was_made_again_is_read_again(own_pool):
    made = Workbench(open_pool(own_pool), device="cpu")
    before = made.choose(made.pool.ids[:2])
    stale, scores = made.merged(before), made.score(before, 0.7)
    record = json.loads((own_pool / "pool.json").read_text())
    entry, donor = record["candidates"][0], record["candidates"][2]
    (own_pool / entry["file"]).write_bytes((own_pool / donor["file"]).read_bytes())
    entry["sha256"] = donor["sha256"]
    (own_pool / "pool.json").write_text(json.dumps(record))
    made.refresh()
    after, expected = made.choose(made.pool.ids[:2]), made.choose(made.pool.ids[1:])
    assert after != before and not all(made.merged(after).delta[name].equal(t) for name, t in stale.delta.items())
    assert all(made.merged(after).delta[name].equal(tensor) for name, tensor in made.merged(expected).delta.items())
    assert made.score(after, 0.7) == made.score(expected, 0.7) != scores
    assert made.merged(before) is stale  # what is at hand serves on
    with pytest.raises(PoolError, match="made again since it was chosen"):
        made.merged(replace(before, rule="uniform", params=()))


@pytest.mark.slow
def test_rounded_changes_keep_every_sign_and_serve_sliders_only(tiny_pool, bench, moved, monkeypatch):
    rounded = workbench(tiny_pool, monkeypatch, free=6 * moved)
    choice = bench.choose()
    quick, exact, ours = rounded.merged(choice, exact=False), rounded.merged(choice), bench.merged(choice)
    assert all(exact.delta[name].equal(tensor) for name, tensor in ours.delta.items())
    assert quick.counts == ours.counts and rounded.agreement() == bench.agreement()
    for name, tensor in ours.delta.items():
        assert quick.delta[name].sign().equal(tensor.sign())
        torch.testing.assert_close(quick.delta[name], tensor, rtol=2**-8, atol=0)
    assert not all(quick.delta[name].equal(tensor) for name, tensor in ours.delta.items())
    assert rounded.score(choice, 0.7) == bench.score(choice, 0.7)  # a whole split is reported: float32
    assert rounded.score(choice, 0.7, "live").forget.n == 240
    written = dict(rounded.unlearned(choice, 0.7))
    assert all(tensor.equal(written[name]) for name, tensor in bench.unlearned(choice, 0.7))
    assert "bfloat16" in rounded.given_up and "float32, read from disk" in rounded.given_up


@pytest.mark.slow
def test_a_slider_after_a_search_goes_back_to_its_own_delta(tiny_pool, moved, monkeypatch):
    rounded = workbench(tiny_pool, monkeypatch, free=6 * moved)
    choice = rounded.choose()
    before = rounded.look(choice, 0.7)[0]
    rounded.score(choice, 0.7)
    assert rounded._live.state == (choice, 0.7, True)
    assert rounded.look(choice, 0.7)[0] == before and rounded._live.state == (choice, 0.7, False)


@pytest.mark.slow
def test_out_of_memory_in_a_merge_reads_from_disk_and_the_numbers_stay(tiny_pool, bench, monkeypatch):
    poor = workbench(tiny_pool, monkeypatch)
    choice = bench.choose()
    monkeypatch.setattr(delta_cache, "merge", out_of_memory(1)(delta_cache.merge))
    assert poor.score(choice, 0.7) == bench.score(choice, 0.7)
    assert "ran out of memory" in poor.given_up
    assert not any(held.tensors for held in poor._deltas._held.values())


@pytest.mark.slow
def test_out_of_memory_in_an_update_restores_the_base_first(tiny_pool, bench, monkeypatch):
    poor = workbench(tiny_pool, monkeypatch)
    choice = bench.choose()
    poor.score(choice, 1.2, "live")
    monkeypatch.setattr(poor.model, "load", out_of_memory(1)(poor.model.load))
    assert poor.score(choice, 0.7) == bench.score(choice, 0.7)
    assert "ran out of memory" in poor.given_up
    assert poor.base_scores() == bench.base_scores()


@pytest.mark.slow
def test_out_of_memory_in_a_pass_halves_the_batch(tiny_pool, bench, monkeypatch):
    poor = workbench(tiny_pool, monkeypatch)
    fits = poor.model.encode

    def encode(pixels):
        return fits(pixels) if len(pixels) <= 15 else out_of_memory(1)(fits)(pixels)

    monkeypatch.setattr(poor.model, "encode", encode)
    assert poor.score(bench.choose(), 0.7) == bench.score(bench.choose(), 0.7)
    assert poor.model.batch == BATCH["cpu"] // 4 and "15 images are scored at a time" in poor.given_up


def test_a_model_beside_which_no_image_fits_is_one_sentence(tiny_pool, monkeypatch):
    poor = workbench(tiny_pool, monkeypatch)
    monkeypatch.setattr(ClipClassifier, "encode", out_of_memory(10**9)(ClipClassifier.encode))
    with pytest.raises(DeviceError, match="--device cpu"):
        poor.base_scores()


@pytest.mark.slow
def test_images_that_do_not_fit_travel_with_each_pass(tiny_pool, bench, monkeypatch):
    poor = workbench(tiny_pool, monkeypatch)
    monkeypatch.setattr(ImageSet, "to", out_of_memory(1)(ImageSet.to))
    assert poor.score(bench.choose(), 0.7) == bench.score(bench.choose(), 0.7)
    assert "images stay" in poor.given_up


@pytest.mark.slow
def test_merged_deltas_are_kept_up_to_a_budget_of_bytes(tiny_pool, bench, moved, monkeypatch):
    monkeypatch.setattr(delta_cache, "CACHE_BYTES", 0)
    bounded = workbench(tiny_pool, monkeypatch)
    ids = bounded.pool.ids
    for scale in range(6):
        bounded.merged(bounded.choose(rule="dare", params={"seed": scale}))
    kept = list(bounded._deltas._merged)
    assert len(kept) == 4 and kept[-1][0] == bounded.choose(ids, "dare", {"seed": 5})
