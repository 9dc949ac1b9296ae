"""Baselines on a network with batch normalisation: what may move, what may be read, what is the same twice."""

from dataclasses import replace

import pytest
import torch

from negmerge_kit.baselines import BASELINES, find_baseline
from negmerge_kit.baselines.baseline import PAPER, TINY
from negmerge_kit.baselines.cf_k import last_layers
from negmerge_kit.baselines.ct import transpose
from negmerge_kit.baselines.msg import masks, reset
from negmerge_kit.baselines.salun import mask_of, saliency
from negmerge_kit.baselines.steps import Run, slope
from negmerge_kit.errors import DivergedError, ParameterError
from negmerge_kit.image_set import ImageSet
from negmerge_kit.models.model_spec import find_model
from negmerge_kit.models.networks import Network, Pooled
from negmerge_kit.models.standard_classifier import StandardClassifier, load_classifier
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.seeding import derived_seed
from tests.baselines.two_weights import parted

RECIPE = Recipe(lr=0.05, epochs=1)


def model(seed=0):
    return load_classifier("classifier:tiny", classes=10, device="cpu", seed=seed)


def fresh(seed):
    return model(seed)


def noise(name, n, seed):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=draw)
    return ImageSet(name, pixels, labels, tuple("0123456789"), "train")


FORGET, REMAINING = noise("forgotten", 33, 1), noise("remaining", 70, 2)
FEW = {"batch_size": 32, "samples": 12, "forget_batch_size": 32, "layers": 2}


def unlearn(name, *, seed=0, epochs=2, rate=0.01, forgotten=FORGET, remaining=REMAINING, recipe=RECIPE, **params):
    baseline, network = BASELINES[name], model()
    known = {parameter.name for parameter in baseline.parameters}
    parts = parted(
        forgotten=forgotten if "forget" in baseline.reads else None,
        remaining=remaining if "remaining" in baseline.reads else None,
    )
    steps = list(
        baseline.unlearn(
            network,
            parts,
            rate=rate,
            epochs=epochs,
            seed=seed,
            fresh=fresh,
            recipe=recipe,
            params={key: value for key, value in FEW.items() if key in known} | params,
        )
    )
    return network, steps


@pytest.mark.parametrize("name", BASELINES)
def test_one_seed_one_network(name):
    """Whatever torch's own generator holds; only the sets that the entry names are read (see `parted`)."""
    first, steps = unlearn(name, seed=3)
    torch.rand(5)
    state = torch.get_rng_state()
    second, again = unlearn(name, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert steps == again and [step.index for step in steps] == list(range(1, steps[0].total + 1))
    base, one, two, other = model().weights(), first.weights(), second.weights(), unlearn(name, seed=4)[0].weights()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], base[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert not any(module.training for module in first.network.modules())
    assert not any(weight.requires_grad for weight in first.network.parameters())


@pytest.mark.parametrize("name", BASELINES)
def test_an_entry_tells_all(name):
    baseline = find_baseline(name)
    assert baseline.name == name and baseline.title and baseline.explains.endswith(".")
    assert baseline.paper.startswith("https://arxiv.org/abs/")
    for preset in (baseline.preset(PAPER), baseline.preset(TINY)):
        assert list(preset.rates) == sorted(set(preset.rates)) and preset.source
        baseline.resolve(preset.params)
    assert not baseline.preset(PAPER).params


def test_retraining_starts_anew_and_is_the_bases_own_training():
    """Neither the base's weights nor a forget image decide anything; `parted` lets no forget image be read."""
    recipe = Recipe(lr=0.05, epochs=3, optimizer="sgd", batch_size=32, warmup=0)
    found, steps = unlearn("retrain", rate=recipe.lr, epochs=3, seed=5, recipe=recipe)
    own = derived_seed(5, "retrained model")
    wanted = fresh(own)
    assert steps == list(finetune(wanted, REMAINING, replace(recipe, seed=own)))
    wanted = wanted.weights()
    assert all(torch.equal(value, wanted[key]) for key, value in found.weights().items())


def test_no_untrained_network_has_the_first_weights_of_another(monkeypatch):
    """Of any seed that may have made the base, of the retrained model, bad teaching's teacher and EU-k."""
    seeds = []
    monkeypatch.setitem(globals(), "fresh", lambda seed: seeds.append(seed) or model(seed))
    for seed in (0, 1):
        unlearn("retrain", seed=seed, epochs=1)
        unlearn("bad-teacher", seed=seed, epochs=1)
        unlearn("eu-k", seed=seed, epochs=1)
    assert len({0, 1, *seeds}) == 8


@pytest.mark.parametrize("optimiser", [{"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.0}])
def test_salun_leaves_the_rest_alone(optimiser):
    """Bit for bit outside the mask, momentum and weight decay notwithstanding; inside, weights moved."""
    params = BASELINES["salun"].resolve({"batch_size": 32, "share": 0.3})
    base = model()
    run = Run(base, parted(forgotten=FORGET), 0.05, 1, 0, params, fresh, RECIPE)
    mask = mask_of(saliency(run), 0.3)
    total = sum(part.numel() for part in mask.values())
    assert sum(int(part.sum()) for part in mask.values()) == int(total * 0.3)
    after, _ = unlearn("salun", rate=0.05, epochs=3, share=0.3, **optimiser)
    before, after = base.weights(), after.weights()
    for name, part in mask.items():
        assert torch.equal(after[name][~part], before[name][~part])
    moved = torch.cat([(after[name] != before[name])[part] for name, part in mask.items()])
    assert float(moved.float().mean()) > 0.95


@pytest.mark.parametrize("name", ["cf-k", "eu-k"])
@pytest.mark.parametrize(("layers", "same"), [(1, 9), (2, 6), (3, 3)])
def test_only_the_last_layers_change(name, layers, same):
    """Three convolutions, each with its norm, and the head: the first modules keep every bit, statistics included."""
    base, after = model().weights(), unlearn(name, layers=layers, rate=0.1)[0].weights()
    first = tuple(f"features.{place}." for place in range(same))
    for key, value in after.items():
        assert torch.equal(value, base[key]) == key.startswith(first), key
    assert any(key.startswith(first) and key.endswith("running_mean") for key in base)


@pytest.mark.parametrize("name", ["cf-k", "eu-k"])
def test_the_last_layers_train_behind_the_frozen_first(name):
    """One step by hand: what the first two convolutions answer in eval mode, the rest trains on as a small network."""
    base, start = model(), fresh(derived_seed(0, "EU-k")) if name == "eu-k" else model()
    with torch.no_grad():
        seen = base.tower.features[:6](base.pixels(REMAINING.images))
    rest = torch.nn.Sequential(*start.tower.features[6:], torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    rest.append(start.tower.head).train().requires_grad_(True)
    torch.nn.functional.cross_entropy(rest(seen), REMAINING.labels).backward()
    wanted = [(w - 0.2 * (w.grad + 0.01 * w)).detach() for w in rest.parameters()]
    found, _ = unlearn(name, layers=2, rate=0.2, epochs=1, batch_size=128, weight_decay=0.01)
    last = [*found.tower.features[6:].parameters(), *found.tower.head.parameters()]
    for value, by_hand in zip(last, wanted, strict=True):
        torch.testing.assert_close(value, by_hand, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.tower.features[7].running_mean, rest[1].running_mean, rtol=1e-4, atol=1e-6)


def test_as_many_layers_as_there_are_is_no_last():
    for name in ("cf-k", "eu-k"):
        with pytest.raises(ParameterError, match="classifier:tiny has 4 layers, so 4 cannot be its last ones only"):
            unlearn(name, layers=4)


@pytest.mark.slow
def test_layers_are_counted_from_the_head_in_every_network():
    """Six of ResNet-18 are its last stage and the head, of ResNet-20 the last two blocks and a half."""
    for network, layers, begins in (
        ("resnet18", 6, "layer4.0.conv1"),
        ("resnet20", 6, "features.15.body.3"),
        ("vgg16-bn", 2, "features.40"),
    ):
        whole = load_classifier(f"classifier:{network}", classes=10, device="cpu")
        names = {module: name for name, module in whole.tower.named_modules()}
        found = [names[one] for one in last_layers(Run(whole, None, 1.0, 1, 0, {"layers": layers}, None, RECIPE))]
        assert found[0] == begins and names[whole.layer] == found[-1], network


def test_transposing_is_its_own_inverse():
    network = model()
    network.tower.features[3] = torch.nn.Conv2d(32, 64, (1, 3), stride=2, padding=(0, 1), bias=False)
    before = network.weights()
    run = Run(network, None, 1.0, 1, 0, {}, None, RECIPE)
    transpose(run)
    once = network.weights()
    for key, value in before.items():
        turned = value.numpy().swapaxes(2, 3) if key in ("features.0.weight", "features.6.weight") else value.numpy()
        assert (once[key].numpy() == turned).all(), key
    assert not torch.equal(once["features.0.weight"], before["features.0.weight"])
    transpose(run)
    assert all(torch.equal(value, before[key]) for key, value in network.weights().items())


def one_step(network, rate, decay, factors=None):
    """The tower after one step of SGD on all remaining images, in train mode, by torch alone."""
    network.tower.train().requires_grad_(True)
    torch.nn.functional.cross_entropy(network.tower(network.pixels(REMAINING.images)), REMAINING.labels).backward()
    with torch.no_grad():
        for name, weight in network.tower.named_parameters():
            weight -= rate * (weight.grad * (factors or {}).get(name, 1.0) + decay * weight)
    return network.weights()


def close(found, wanted):
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_ct_fine_tunes_the_transposed_network():
    turned = model()
    with torch.no_grad():
        for place in (0, 3, 6):
            weight = turned.tower.features[place].weight
            weight.copy_(torch.from_numpy(weight.numpy().swapaxes(2, 3).copy()))
    found, _ = unlearn("ct", rate=0.2, epochs=1, batch_size=128, weight_decay=0.01)
    close(found.weights(), one_step(turned, 0.2, 0.01))


def test_msg_resets_the_smallest_differences_of_each_convolution():
    """Elsewhere the weights are the base's, and the gradients of convolutions there count a tenth."""
    size, share = len(FORGET), 0.3
    params = BASELINES["msg"].resolve({"share": share})
    base = model()
    run = Run(base, parted(forgotten=FORGET, remaining=REMAINING), 0.2, 1, 5, params, fresh, RECIPE)
    chosen = masks(run)
    drawn = torch.randperm(len(REMAINING), generator=torch.Generator().manual_seed(5))[:size]
    base.tower.requires_grad_(True)
    for images, sign in ((REMAINING.at(drawn), 1), (FORGET, -1)):
        logits = base.tower(base.pixels(images.images))
        (sign * torch.nn.functional.cross_entropy(logits, images.labels, reduction="sum")).backward()
    weights = dict(base.tower.named_parameters())
    assert set(chosen) == {f"features.{place}.weight" for place in (0, 3, 6)}
    for name, mask in chosen.items():
        size = weights[name].grad.abs()
        assert (
            int(mask.sum()) == int(share * mask.numel()) and float(size[mask].max()) <= float(size[~mask].min()) * 1.001
        )
    start = model()
    reset(replace(run, model=start), chosen)
    for key, value in start.weights().items():
        kept = ~chosen[key] if key in chosen else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[kept], model().weights()[key][kept])
    last = start.weights()["features.6.weight"][chosen["features.6.weight"]]
    assert float(last.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05) and abs(float(last.mean())) < 0.003
    factors = {name: torch.where(mask, 1.0, 0.1) for name, mask in chosen.items()}
    found, _ = unlearn("msg", rate=0.2, seed=5, epochs=1, batch_size=128, weight_decay=0.01, share=share)
    close(found.weights(), one_step(start, 0.2, 0.01, factors))


@pytest.mark.parametrize(("name", "says"), [("ct", "has no convolutions"), ("msg", "has no convolutions")])
def test_a_network_without_convolutions_is_refused(name, says):
    linear = Network(Pooled(torch.nn.Identity(), 3, 10), (8, 8), (0.5,) * 3, (0.5,) * 3)
    network = StandardClassifier(linear, find_model("classifier:tiny"), torch.device("cpu"))
    with pytest.raises(ParameterError, match=says):
        BASELINES[name].unlearn(network, parted(FORGET, REMAINING), rate=0.1, epochs=1, fresh=fresh, recipe=RECIPE)


def test_kernels_of_one_pixel_cannot_be_transposed():
    flat = Network(Pooled(torch.nn.Conv2d(3, 8, 1), 8, 10), (8, 8), (0.5,) * 3, (0.5,) * 3)
    network = StandardClassifier(flat, find_model("classifier:tiny"), torch.device("cpu"))
    with pytest.raises(ParameterError, match="no square kernels over 1 × 1"):
        transpose(Run(network, None, 1.0, 1, 0, {}, None, RECIPE))


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", ["resnet20", "resnet9", "resnet18", "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224"]
)
@pytest.mark.parametrize("name", ["ssd", "neggrad-plus", "eu-k", "cf-k", "msg", "ct"])
def test_rivals_take_every_kind_of_network(name, network):
    def untrained(seed):
        return load_classifier(f"classifier:{network}", classes=10, device="cpu", seed=seed)

    found = untrained(0)
    before, size = found.weights(), found.image_size
    draw = torch.Generator().manual_seed(0)
    sets = [
        ImageSet(
            name,
            torch.randint(0, 256, (n, 3, *size), generator=draw, dtype=torch.uint8),
            torch.arange(n),
            tuple("0123456789"),
            "train",
        )
        for name, n in (("forgotten", 2), ("remaining", 4))
    ]
    params = {"batch_size": 2}
    steps = list(
        BASELINES[name].unlearn(
            found, parted(*sets), rate=0.01, epochs=1, fresh=untrained, recipe=RECIPE, params=params
        )
    )
    assert len(steps) == (3 if name == "ssd" else 2) and all(
        torch.isfinite(value).all() for value in found.weights().values()
    )
    assert any(not torch.equal(value, before[key]) for key, value in found.weights().items())


def test_salience_is_measured_in_eval_mode():
    network = model()
    before = network.weights()
    salience = saliency(Run(network, parted(forgotten=FORGET), 1.0, 1, 0, {"batch_size": 16}, fresh, RECIPE))
    assert all(torch.equal(value, before[key]) for key, value in network.weights().items())
    for weight in network.tower.parameters():
        weight.requires_grad_(True)
    total = None
    for chosen in (slice(0, 16), slice(16, 32), slice(32, 33)):
        logits = network.tower(network.pixels(FORGET.images[chosen]))
        loss = torch.nn.functional.cross_entropy(logits, FORGET.labels[chosen])
        slopes = torch.autograd.grad(loss, list(network.tower.parameters()))
        total = slopes if total is None else [a + b for a, b in zip(total, slopes, strict=True)]
    for found, wanted in zip(salience.values(), total, strict=True):
        torch.testing.assert_close(found, wanted.abs(), rtol=1e-4, atol=1e-6)


def test_ssd_shrinks_what_matters_to_the_forget_set_only():
    """One batch of each set: some weights are left alone, some shrunk, none grows, and no statistic moves."""
    base, squares = model(), []
    names, weights = zip(*base.tower.named_parameters(), strict=True)
    for images in (FORGET, REMAINING):
        for weight in weights:
            weight.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(base.tower(base.pixels(images.images)), images.labels)
        squares.append([g.double() ** 2 for g in torch.autograd.grad(loss, weights)])
    found, steps = unlearn("ssd", rate=1.5, epochs=1, batch_size=128, dampening=0.7)
    found, before, chosen = found.weights(), model().weights(), []
    for name, forget, remaining in zip(names, *squares, strict=True):
        ratio = 0.7 * (forget + remaining) / 2 / forget
        chosen.append((forget > 1.5 * (forget + remaining) / 2).flatten())
        factor = torch.where(chosen[-1].view_as(forget), ratio.clamp(max=1), 1.0)
        torch.testing.assert_close(found.pop(name).double(), before.pop(name) * factor, rtol=1e-3, atol=1e-6)
    assert 0.05 < float(torch.cat(chosen).double().mean()) < 0.95 and len(steps) == 2
    assert all(torch.equal(value, before[key]) for key, value in found.items())


@pytest.mark.parametrize(
    "gradient",
    [
        lambda run: torch.cat([part.flatten() for part in saliency(run).values()]),
        lambda run: slope(run, FORGET, slice(0, 8)),
    ],
)
def test_gradients_without_a_scaler_do_not_vanish_in_float16(gradient):
    """Below a head of small weights gradients are smaller than float16's smallest number, as on a GPU."""
    found = []
    for precision in ("float32", "float16"):
        network = model()
        with torch.no_grad():
            network.tower.head.weight *= 1e-7
        recipe = replace(RECIPE, precision=precision)
        found.append(gradient(Run(network, parted(forgotten=FORGET), 1.0, 1, 0, {"batch_size": 16}, fresh, recipe)))
    assert bool((found[0] != 0).float().mean() > 0.5) and torch.equal(*found)


def test_boundary_expanding_ends_with_the_classes_it_began_with():
    network, _ = unlearn("boundary-expand")
    assert network.head("any").shape == model().head("any").shape
    assert set(network.weights()) == set(model().weights())


def test_an_image_is_never_alone_under_batch_normalisation():
    """33 images in batches of 32 are one batch; one image in all is refused."""
    _, steps = unlearn("gradient-ascent", epochs=2)
    assert len(steps) == 2
    with pytest.raises(ParameterError, match="forgotten has one image, and batch normalisation"):
        unlearn("gradient-ascent", forgotten=FORGET.take(1))


def test_running_statistics_move_as_in_training_but_not_under_influence():
    for name, moves in {"fine-tune": True, "influence": False}.items():
        after, before = unlearn(name)[0].weights(), model().weights()
        keys = [key for key in before if key.endswith("running_mean")]
        assert keys and all(torch.equal(after[key], before[key]) != moves for key in keys)


@pytest.mark.parametrize(("name", "rate"), [("gradient-ascent", 1e38), ("influence", 1e45), ("neggrad-plus", 1e38)])
def test_a_rate_that_is_far_too_large(name, rate):
    with pytest.raises(DivergedError, match="give a smaller rate"):
        unlearn(name, rate=rate, epochs=5)


def test_weights_that_the_last_step_broke_are_named():
    """Every loss was a number, and so is the only one of this run."""
    with pytest.raises(DivergedError, match="at step 1, the last, with rate 1e\\+30: give a smaller rate"):
        unlearn("gradient-ascent", rate=1e30, epochs=1, weight_decay=1e10)


def test_half_precision_and_augmentation_are_the_recipes():
    plain, _ = unlearn("fine-tune")
    half, _ = unlearn("fine-tune", recipe=Recipe(lr=0.05, epochs=1, precision="bfloat16"))
    augmented, _ = unlearn("fine-tune", recipe=Recipe(lr=0.05, epochs=1, augment="rand-m3-n1-mstd0.5"))
    key = "features.0.weight" if "features.0.weight" in plain.weights() else next(iter(plain.weights()))
    assert not torch.equal(plain.weights()[key], augmented.weights()[key])
    assert torch.isfinite(half.weights()[key]).all() and half.weights()[key].dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rate": 0.0}, "learning rate of scrub is 0.0"),
        ({"epochs": 0}, "for 0 epochs"),
        ({"temperature": 0}, "temperature is 0"),
        ({"beta": 1}, "scrub has no parameter 'beta'"),
    ],
)
def test_what_cannot_be(settings, told):
    with pytest.raises(ParameterError, match=told):
        unlearn("scrub", **settings)


def test_names_that_are_not_there():
    with pytest.raises(ParameterError, match="there is no baseline 'amnesia': choose one of"):
        find_baseline("amnesia")
    with pytest.raises(ParameterError, match="scrub has no preset 'svhn': choose one of paper-cifar, tiny-classifier"):
        find_baseline("scrub").preset("svhn")
