"""The fine-tuning benchmark: both ways train the same model on the same files, and the ratio is theirs."""

import torch

from benchmarks.authors_loader import decode_once, published_loader, write_jpegs
from benchmarks.bench_finetune import RECIPE, authors_step, bench
from negmerge_kit.models.load import load_model
from negmerge_kit.models.parameters import trained_parameters
from negmerge_kit.training.recipe import grid


def test_it_measures_every_way_in_one_run():
    result = bench(device="cpu", images=16, repeats=1, workers=0)
    rates = {row["way"]: row["images_per_s"] for row in result["rows"]}
    assert list(rates) == ["authors", "ours, float32", "training alone", "augmenting alone"]
    assert all(0 < rate < 1e6 for rate in rates.values())
    assert result["ratio"] == rates["ours, float32"] / rates["authors"] == result["rows"][1]["ratio"]
    assert (result["model"], result["images"], result["size"]) == ("tiny", 16, 32)


def test_the_baseline_sees_the_same_files_anew_each_epoch_and_trains_the_same_weights(tmp_path):
    write_jpegs(tmp_path, 8, 40, classes=8)
    ours = decode_once(tmp_path, (32, 32))
    assert ours.images.shape == (8, 3, 32, 32) and ours.labels.tolist() == list(range(8))
    model = load_model("tiny", device="cpu")
    loader = published_loader(
        tmp_path, (32, 32), augment=RECIPE.augment, mean=model.mean, std=model.std, batch_size=8, workers=0
    )
    (first, labels), (second, _) = next(next(loader)), next(next(loader))
    assert first.shape == (8, 3, 32, 32) and sorted(labels.tolist()) == list(range(8))
    assert not torch.equal(first, second) and float(first.abs().max()) < 3
    model.heads["bench"] = torch.eye(8, 64)
    before = model.weights()
    authors_step(model)(first, labels)
    moved = {name for name, tensor in model.weights().items() if not torch.equal(tensor, before[name])}
    assert moved == {f"visual.{name}" for name in trained_parameters(model.tower, "no-attention")}


def test_the_measured_recipe_is_one_of_the_published():
    published = grid("paper-randaugment")
    assert (RECIPE.augment, RECIPE.lr, RECIPE.batch_size, RECIPE.trainable, RECIPE.flips) in {
        (r.augment, r.lr, r.batch_size, r.trainable, r.flips) for r in published
    }
