"""Pretraining the embedded base: a short run learns, and its seed decides it."""

import pytest
import torch

from negmerge_kit.data.embedded import FAMILIES
from negmerge_kit.models.tiny_clip import TOKEN_EMBEDDING, fresh_clip, token_embedding
from negmerge_kit.training.pretraining import Pretraining, pretrain_tiny, pretraining_images

QUICK = Pretraining(epochs=1, batch=32, warmup=5)


def _run(steps, seed=0):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        clip = fresh_clip(seed)
        losses = [step.loss for step, _ in zip(pretrain_tiny(clip, QUICK), range(steps), strict=False)]
    finally:
        torch.set_num_threads(threads)
    return losses, clip.state_dict()


@pytest.fixture(scope="module")
def short():
    return _run(25)


@pytest.mark.slow
def test_the_loss_falls_and_the_embedding_stays_frozen(short):
    losses, weights = short
    assert len(losses) == 25 and losses[0] > 4.3  # the logarithm of 88 classes is 4.48
    assert sum(losses[-5:]) / 5 < losses[0] - 0.3
    assert torch.equal(weights[TOKEN_EMBEDDING], token_embedding())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(short):
    _, first = _run(4)
    _, again = _run(4)
    _, other = _run(4, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])


@pytest.mark.slow
def test_images_of_an_epoch_cover_every_class_of_every_family():
    images, labels = pretraining_images(0)
    classes = sum(len(family.classes) for family in FAMILIES.values())
    assert len(images) == len(labels) == sum(family.pretrain for family in FAMILIES.values())
    assert labels.unique().tolist() == list(range(classes))


def test_the_rate_warms_up_and_ends_at_zero():
    recipe = Pretraining(lr=1.0, warmup=10)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == 1.0 and rates[-1] < 0.01
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
