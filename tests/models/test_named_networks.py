"""The large networks by their names, from training to unlearned weights: two candidates of two steps each, merged."""

import numpy as np
import pytest
import torch

from negmerge_kit import apply_delta, finetune, merge
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.standard_classifier import load_classifier
from negmerge_kit.training.recipe import Recipe
from tests.oracles import negmerge


def noise(n=4):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return ImageSet("forgotten", pixels, torch.randint(0, 10, (n,), generator=draw), tuple("0123456789"), "train")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe"), [("vgg16-bn", {"optimizer": "sgd", "lr": 0.01}), ("swin-t", {"optimizer": "adamw", "lr": 1e-4})]
)
def test_two_candidates_are_trained_merged_and_subtracted(name, recipe, tmp_path):
    model, images = load_classifier(f"classifier:{name}", classes=10, device="cpu"), noise()
    base, candidates = model.weights(), []
    for seed in (1, 2):
        model.load(base.items())
        steps = list(finetune(model, images, Recipe(**recipe, epochs=1, batch_size=2, warmup=0, seed=seed)))
        assert [step.index for step in steps] == [1, 2]
        candidates.append(model.weights())
    merged = merge(base, candidates)
    delta = dict(merged)
    assert 0 < merged.counts.kept < merged.counts.moved <= merged.counts.elements
    for key in (next(iter(delta)), [*delta][-2]):  # the first layer's weight and the head's
        deltas = [{key: (candidate[key] - base[key]).numpy()} for candidate in candidates]
        assert np.array_equal(delta[key].numpy(), negmerge(deltas)[key]), key
    statistics = [key for key in delta if key.endswith(("running_mean", "running_var"))]
    assert bool(statistics) == (name == "vgg16-bn")
    for key in statistics:
        assert not delta[key].any() and not torch.equal(candidates[0][key], base[key])

    file = save_checkpoint(tmp_path / "unlearned.safetensors", apply_delta(base, delta, 0.5), like=base)
    again = load_classifier(f"classifier:{name}/{file}", device="cpu")
    for key, tensor in again.weights().items():
        assert torch.equal(tensor, base[key] - 0.5 * delta[key] if key in delta else base[key]), key
    pixels = again.pixels(images.images)
    with torch.no_grad():
        assert bool(torch.isfinite(again.tower(pixels)).all())
