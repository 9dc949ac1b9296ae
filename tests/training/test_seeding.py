"""What a network draws itself while it trains: the seed's, another every step, and nobody else's."""

from dataclasses import replace

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from negmerge_kit.baselines import BASELINES
from negmerge_kit.data.sklearn_digits import SCANS
from negmerge_kit.data.transform import Transform
from negmerge_kit.models.standard_classifier import load_classifier
from negmerge_kit.models.tiny_clip import fresh_clip
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.training.execution import Execution
from negmerge_kit.training.finetuning import finetune
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.seeding import derived_seed, seeded
from tests.baselines.two_weights import parted

RECIPE = Recipe(lr=0.05, epochs=2, batch_size=8, warmup=0, optimizer="sgd", seed=1)


@pytest.fixture(scope="module")
def images():
    return Forgetting(SCANS).parts(Transform(8, 8)).forgotten.take(24)


class Noted(nn.Dropout):
    """Dropout that notes a number which is drawn before each of its masks."""

    def __init__(self):
        super().__init__(0.5)
        self.notes = []

    def forward(self, x):
        if self.training:
            self.notes.append(float(torch.rand(())))
        return super().forward(x)


def dropping():
    """The embedded network with dropout before its mean."""
    model = load_classifier("classifier:tiny", classes=10, device="cpu")
    model.tower.features.append(Noted())
    return model


def swin():
    """A Swin transformer of two blocks that drops paths, in the place of the embedded network."""
    model = load_classifier("classifier:tiny", classes=10, device="cpu")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model.network = model.tower = SwinTransformer(
            img_size=8,
            patch_size=2,
            embed_dim=8,
            depths=(1, 1),
            num_heads=(1, 2),
            window_size=2,
            num_classes=10,
            drop_path_rate=0.5,
        )
    return model


NETWORKS = pytest.mark.parametrize("network", [dropping, swin])


def trained(network, images, recipe=RECIPE, **how):
    model = network()
    for step in finetune(model, images, recipe, **how):
        torch.rand(step.index)  # whatever torch's own generator holds
    return model.weights()


def same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@NETWORKS
def test_one_seed_one_network(network, images):
    torch.manual_seed(5)
    first = trained(network, images)
    torch.manual_seed(6)
    assert same(first, trained(network, images))
    assert not same(first, trained(network, images, replace(RECIPE, seed=2)))


@NETWORKS
@pytest.mark.parametrize("stop", [2, 3])
def test_a_stopped_run_goes_on_to_the_same_weights(network, images, stop, tmp_path):
    """Within an epoch, and between two."""
    state = tmp_path / "state.safetensors"
    steps = finetune(network(), images, RECIPE, resume=state, execution=Execution(save_seconds=0))
    assert [next(steps).index for _ in range(stop)][-1] == stop
    steps.close()
    torch.manual_seed(7)
    assert same(trained(network, images, resume=state), trained(network, images))


@pytest.mark.parametrize("stop", [2, 6])
@pytest.mark.parametrize("kind", ["fine-tuning", "a baseline"])
def test_the_callers_draws_between_the_steps_are_its_own(images, kind, stop):
    torch.manual_seed(5)
    wanted = [float(torch.rand(())) for _ in range(6)]
    torch.manual_seed(5)
    model = dropping()
    run = finetune(model, images, RECIPE) if kind == "fine-tuning" else unlearned(model, images)
    assert [float(torch.rand(())) for _, _ in zip(range(stop), run, strict=False)] == wanted[:stop]


def unlearned(model, images, seed=1):
    return BASELINES["fine-tune"].unlearn(
        model,
        parted(remaining=images),
        rate=0.05,
        epochs=2,
        seed=seed,
        fresh=lambda _: dropping(),
        recipe=RECIPE,
        params={"batch_size": 8},
    )


def test_no_gpu_is_reseeded_by_what_is_made_and_trained_on_the_cpu(images, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("every GPU was reseeded"))
    fresh_clip(3)
    list(finetune(dropping(), images, RECIPE))


def noted(images, seed):
    model = dropping()
    list(finetune(model, images, replace(RECIPE, seed=seed)))
    return model.tower.features[-1].notes


def test_every_step_and_seed_draws_something_else(images):
    one, two = noted(images, 1), noted(images, 2)
    assert len({*one, *two}) == 2 * 6
    assert two == noted(images, 2)


def test_dropout_draws_what_it_drew_in_version_0_1(images):
    with seeded(torch.device("cpu"), derived_seed(1, "dropout", 0, 0)):
        assert noted(images, 1)[0] == float(torch.rand(()))


@NETWORKS
def test_one_seed_one_unlearned_network(network, images):
    made = []
    for own, seed in ((5, 1), (6, 1), (5, 2)):
        torch.manual_seed(own)
        model = network()
        for step in unlearned(model, images, seed):
            torch.rand(step.index)
        made.append(model.weights())
    assert same(made[0], made[1]) and not same(made[0], made[2])


def test_every_step_of_a_baseline_draws_something_else(images):
    model = dropping()
    list(unlearned(model, images))
    notes = model.tower.features[-1].notes
    assert len(set(notes)) == len(notes) == 6
