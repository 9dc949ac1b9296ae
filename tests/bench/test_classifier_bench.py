"""The classifier benchmark: both ways train the same network on the same images, and the ratio is theirs."""

import pytest
import torch

from benchmarks.authors_loader import plain_loader
from benchmarks.bench_classifier import CLASSES, RECIPE, bench, plain_step
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.standard_classifier import load_classifier


@pytest.mark.slow
def test_it_measures_both_ways_in_one_run():
    result = bench(device="cpu", images=4, repeats=1, workers=0)
    rates = {row["way"]: row["images_per_s"] for row in result["rows"]}
    assert list(rates) == ["plain loader", "ours, float32"] and all(0 < rate < 1e6 for rate in rates.values())
    assert result["ratio"] == rates["ours, float32"] / rates["plain loader"]
    assert (result["model"], result["images"], result["batch"]) == ("classifier:resnet20", 4, 4)


def test_the_plain_loader_crops_anew_at_every_sight_and_its_step_trains_everything():
    pixels = torch.randint(1, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = ImageSet("bench", pixels, torch.arange(6), tuple("abcdefghij"), "train")
    loader = plain_loader(images, padding=1, batch_size=6, workers=0)
    (first, labels), (second, _) = next(next(loader)), next(next(loader))
    assert first.shape == (6, 3, 8, 8) and sorted(labels.tolist()) == list(range(6)) and float(first.max()) <= 1
    assert not torch.equal(first, second)
    model = load_classifier("classifier:tiny", classes=CLASSES, device="cpu")
    before = model.weights()
    plain_step(model, RECIPE)(first, labels)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.weights().items())
