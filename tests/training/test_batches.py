"""Training batches: the recipe's order, augmentation that can be repeated."""

import threading
from dataclasses import replace
from itertools import chain, islice

import pytest
import torch

from negmerge_kit.comparison.options import ComparisonOptions
from negmerge_kit.data.embedded import family_images
from negmerge_kit.errors import ParameterError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.load import load_model
from negmerge_kit.training import batches as room
from negmerge_kit.training.batches import batches
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe

CPU = torch.device("cpu")
PLAIN = Recipe(lr=1e-3, epochs=2, batch_size=8, seed=5)
AUGMENTED = replace(PLAIN, augment="rand-m3-n2-mstd0.5")


@pytest.fixture(scope="module")
def numbered():
    """21 images that say which they are: batches of 8, 8 and 5."""
    images = torch.arange(21, dtype=torch.uint8).view(21, 1, 1, 1).expand(21, 3, 16, 16).contiguous()
    images[:, :, ::2] //= 2  # so that a mirrored or cropped image differs
    return ImageSet("digits", images, torch.arange(21) % 10, tuple("0123456789"), "train")


@pytest.mark.parametrize("recipe", [PLAIN, AUGMENTED])
def test_each_epoch_shows_every_image_once_in_an_order_of_its_own(numbered, recipe):
    labels = [batch.labels.tolist() for batch in batches(numbered, recipe, CPU)]
    assert [len(part) for part in labels] == [8, 8, 5] * 2
    first, second = (list(chain(*epoch)) for epoch in (labels[:3], labels[3:]))
    assert sorted(first) == sorted(second) == sorted(numbered.labels.tolist()) and first != second


def orders(images, recipe):
    """Which images each epoch shows, in order."""
    seen = list(chain(*(batch.pixels[:, 0, 1, 0].tolist() for batch in batches(images, recipe, CPU))))
    return [seen[k : k + len(images)] for k in range(0, len(seen), len(images))]


def test_the_order_of_images_is_the_candidates_own_shared_or_fixed(numbered):
    one, other = replace(PLAIN, epochs=3), replace(PLAIN, epochs=3, seed=6)
    own = orders(numbered, one)
    generator = torch.Generator().manual_seed(5)
    assert own == [torch.randperm(21, generator=generator).tolist() for _ in range(3)]  # as ever: finished work stays
    assert all(a != b for a, b in zip(own, orders(numbered, other), strict=True))
    shared = orders(numbered, replace(one, order="shared"))
    assert shared == orders(numbered, replace(other, order="shared")) and len({tuple(epoch) for epoch in shared}) == 3
    fixed = orders(numbered, replace(one, order="fixed"))
    assert fixed == orders(numbered, replace(other, order="fixed")) == [fixed[0]] * 3
    sampler = torch.utils.data.DistributedSampler(range(21), num_replicas=1, rank=0)
    assert list(sampler) == list(sampler) == fixed[0]  # the authors' order, in every epoch


def test_augmentation_follows_the_seed_whatever_the_order(numbered):
    one = replace(AUGMENTED, epochs=1, order="fixed")
    pairs = zip(batches(numbered, one, CPU), batches(numbered, replace(one, seed=6), CPU), strict=True)
    for a, b in pairs:
        assert torch.equal(a.labels, b.labels) and not torch.equal(a.pixels, b.pixels)


@pytest.mark.parametrize("recipe", [PLAIN, AUGMENTED, replace(PLAIN, order="shared"), replace(PLAIN, order="fixed")])
@pytest.mark.parametrize("done", [1, 2, 3, 4, 5])
def test_a_run_goes_on_with_the_very_batches_that_were_due(numbered, recipe, done):
    whole = list(batches(numbered, recipe, CPU))
    rest = list(batches(numbered, recipe, CPU, done=done, order=whole[done - 1].order))
    assert len(rest) == len(whole) - done
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(rest, whole[done:], strict=True))


def test_augmentation_differs_by_step_and_seed(numbered):
    same = ImageSet(
        "digits",
        numbered.images[20:].expand(16, -1, -1, -1).contiguous(),
        torch.zeros(16, dtype=torch.int64),
        numbered.classes,
        "train",
    )
    one, two = (batch.pixels for batch in batches(same, replace(AUGMENTED, epochs=1), CPU))
    other = next(batches(same, replace(AUGMENTED, epochs=1, seed=6), CPU)).pixels
    assert not torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize("augment", ["crop-4", "rand-m3-n2-mstd0.5"])
def test_any_seed_of_63_bits_trains(numbered, augment):
    from negmerge_kit.baselines.steps import Run

    for seed in (1_000_000_000, 2**63 - 1):
        derived = Run(None, None, 0.1, 1, seed, {}, None, PLAIN).seed_of(3, 9)
        recipe = replace(PLAIN, seed=derived, augment=augment)
        assert len(list(batches(numbered, recipe, CPU))) == 6
    # Small seeds stay what they were: finished candidates can be made again.
    assert Run(None, None, 0.1, 1, 7, {}, None, PLAIN).seed_of(3, 9) == 7 * 100_003 + 39


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_other_seeds_are_refused_where_they_enter(seed):
    for made in (lambda: replace(PLAIN, seed=seed), lambda: ComparisonOptions(seed=seed)):
        with pytest.raises(ParameterError, match=f"seed.*{seed}.* out of range"):
            made()


def test_a_run_that_is_dropped_leaves_no_thread_and_a_fault_comes_out(numbered, monkeypatch):
    running = batches(numbered, AUGMENTED, CPU)
    assert len(list(islice(running, 2))) == 2
    running.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())

    def broken(*args, **settings):
        raise ParameterError("it broke")

    monkeypatch.setattr(room, "augment", broken)
    with pytest.raises(ParameterError, match="it broke"):
        next(batches(numbered, AUGMENTED, CPU))


@pytest.mark.parametrize(
    "flips, may, mirrored",
    [("safe", False, False), ("safe", True, True), ("never", True, False), ("as-published", False, True)],
)
def test_images_are_mirrored_where_it_is_safe_or_published(monkeypatch, flips, may, mirrored):
    seen = []

    def spy(images, spec, *, seed, flips):
        seen.append((spec, flips))
        return images

    monkeypatch.setattr(room, "augment", spy)
    recipe = replace(AUGMENTED, epochs=1, flips=flips)
    model, images = load_model("tiny", device="cpu"), family_images("digits", "train").take(8)
    assert len(list(finetune(model, images, recipe, may_mirror=may))) == 1
    assert seen == [("rand-m3-n2-mstd0.5", mirrored)]


@pytest.mark.slow
def test_an_augmented_run_that_was_stopped_ends_bit_for_bit_alike(tmp_path):
    images, state = family_images("digits", "train").take(21), tmp_path / "state.safetensors"

    def run(stop=None, **how):
        model = load_model("tiny", device="cpu")
        steps = list(islice(finetune(model, images, AUGMENTED, **how), stop))
        return model.weights(), steps

    weights, steps = run()
    how = {"resume": state, "execution": Execution(save_seconds=0)}
    assert run(4, **how)[1] == steps[:4]
    again, replayed = run(**how)
    assert replayed == steps and all(torch.equal(again[name], weights[name]) for name in weights)
