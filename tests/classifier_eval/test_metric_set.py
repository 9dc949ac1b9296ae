"""The metrics of a classifier on a planted leak: what was memorised is found, what was never seen is not."""

from types import SimpleNamespace

import pytest
import torch

from negmerge_kit.classifier_eval.metric_set import MetricSet, measure
from negmerge_kit.classifier_eval.shadow_models import halves, train_shadows
from negmerge_kit.errors import NotFiniteError, ParameterError, SplitError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.standard_classifier import load_classifier
from negmerge_kit.scoring.gap import GAP_OVER
from negmerge_kit.scoring.metrics import METRICS

CLASSES = tuple(map(str, range(10)))


def scans(name, split, start, n, seed):
    """Scanned digits of which three in ten have a wrong label: to know those, a model must have seen them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.tensor(found.images[start : start + n] * 15.9375).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    labels = torch.tensor(found.target[start : start + n])
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(n, generator=draw) < 0.3
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (n,), generator=draw)[wrong]) % 10
    return ImageSet(name, pixels.contiguous(), labels.long(), CLASSES, split)


class Whole(SimpleNamespace):
    """Parts of which no half is apart."""

    def half(self, name, split):
        return None

    def on(self, name, split):
        return getattr(self, name)


@pytest.fixture(scope="module")
def parts():
    return Whole(
        forgotten=scans("forgotten", "train", 0, 100, 1),
        remaining=scans("remaining", "train", 100, 200, 2),
        validation=scans("unseen", "val", 300, 120, 3),
        test=scans("unseen", "test", 420, 200, 4),
    )


def memorised(images, seed, epochs=40):
    """A network that knows every one of these images by heart."""
    model = load_classifier("classifier:tiny", classes=10, device="cpu", seed=seed)
    network = model.tower.requires_grad_(True).train()
    taught = torch.optim.Adam(network.parameters(), lr=5e-3)
    draw, pixels = torch.Generator().manual_seed(seed), model.pixels(images.images)
    with torch.enable_grad():
        for _ in range(epochs):
            for batch in torch.randperm(len(images), generator=draw).split(50):
                taught.zero_grad()
                torch.nn.functional.cross_entropy(network(pixels[batch]), images.labels[batch]).backward()
                taught.step()
    model.network.eval().requires_grad_(False)
    return model


def together(*sets):
    return ImageSet("both", torch.cat([s.images for s in sets]), torch.cat([s.labels for s in sets]), CLASSES, "train")


@pytest.fixture(scope="module")
def shadows(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shadows")
    return folder, train_shadows(parts, memorised, count=4, seed=0, folder=folder, made_from={"network": "tiny"})


@pytest.fixture(scope="module")
def leaking(parts):
    return memorised(together(parts.forgotten, parts.remaining), 11)


@pytest.fixture(scope="module")
def retrained(parts):
    return memorised(parts.remaining, 12)


@pytest.mark.slow
def test_a_planted_leak_is_found_and_retraining_leaves_none(parts, shadows, leaking, retrained):
    leak, clean = (measure(m, parts, split="test", shadows=shadows[1]).values for m in (leaking, retrained))
    never = Whole(**{**vars(parts), "forgotten": parts.validation})
    strangers = measure(retrained, never, split="test").values
    for attack in ("mia", "mia_m_entropy", "mia_correctness", "loss_threshold"):
        assert leak[attack] < 0.2 < clean[attack], attack
        # What the attack says of images to forget is what it says of images that nobody ever saw.
        assert abs(clean[attack] - strangers[attack]) < 0.2, attack
    assert leak["lira_members"] > 0.8 > 0.5 > clean["lira_members"]
    assert leak["lira_auc"] > 0.75 and abs(clean["lira_auc"] - 0.5) < 0.12
    assert leak["forget"] > 0.95 > clean["forget"] and leak["unlearning"] == pytest.approx(1 - leak["forget"])


@pytest.mark.slow
def test_a_standing_is_complete_and_comes_back_whole(parts, shadows, leaking, retrained):
    ours, reference = (measure(m, parts, split="val", shadows=shadows[1]) for m in (leaking, retrained))
    told = ours.with_gap(reference, seconds=1.5)
    assert list(told.scores) == list(METRICS) == list(told.values)
    for name, score in told.json().items():
        if METRICS[name].share:
            assert score["low"] <= score["value"] <= score["high"] and score["n"] > 0
    expected = sum(abs(ours.values[name] - reference.values[name]) for name in GAP_OVER) / 4
    assert told.values["gap"] == pytest.approx(expected) and reference.with_gap(reference).values["gap"] == 0
    assert MetricSet.from_json("val", told.json()) == told
    assert told.scores["unseen"]["n"] == 120 and told.scores["unseen"]["split"] == "val"
    bare = measure(leaking, parts, split="val", features=("confidence",))
    why = bare.scores["lira_auc"]["why"]
    assert "--shadows" in why and "shadow model" not in why
    assert bare.scores["gap"]["value"] is None
    assert measure(leaking, parts, split="val", shadows=shadows[1]) == ours


@pytest.mark.slow
def test_shadow_models_are_found_again(parts, shadows):
    folder, made = shadows
    files = sorted(folder.iterdir())
    assert len(files) == 4
    files[2].unlink()
    files[3].write_bytes(b"no checkpoint")
    trained = []

    def train(images, seed):
        trained.append(seed)
        return memorised(images, seed)

    again = train_shadows(parts, train, count=4, seed=0, folder=folder, made_from={"network": "tiny"})
    assert len(set(trained)) == 2 and torch.equal(again.confidence, made.confidence)
    assert torch.equal(again.inside, made.inside)
    for name, n in (("forgotten", 100), ("test", 200)):
        assert [tuple(side.shape) for side in again.about(name)] == [(4, n)] * 2


@pytest.mark.slow
def test_every_image_is_in_half_of_the_shadow_models():
    drawn = halves(6, 50, seed=3)
    assert drawn.sum(0).tolist() == [3] * 50 and not torch.equal(drawn, halves(6, 50, seed=4))
    for count in (0, 2, 5):
        with pytest.raises(ParameterError, match="even number"):
            halves(count, 10, seed=0)


@pytest.mark.slow
def test_what_cannot_be_measured_is_told(parts, leaking):
    with pytest.raises(SplitError, match="val or test"):
        measure(leaking, parts, split="train")
    empty = Whole(**{**vars(parts), "test": parts.test.take(0)})
    with pytest.raises(ParameterError, match="never seen"):
        measure(leaking, empty, split="test")
    on_val = measure(leaking, parts, split="val", features=("confidence",))
    on_test = measure(leaking, parts, split="test", features=("confidence",))
    with pytest.raises(SplitError, match="one split"):
        on_val.with_gap(on_test)
    broken = load_classifier("classifier:tiny", classes=10, device="cpu")
    broken.tower.head.weight.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError):
        measure(broken, parts, split="val")
