"""A linear scene's pool: candidates are tangent models, and their deltas are evaluated as the linear model they are."""

import pytest
import torch

from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import create_pool, record_candidate
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from negmerge_kit.sweeps.finetune_job import FinetuneJob
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.unlearning.workbench import Workbench


@pytest.fixture(scope="module")
def linear_bench(tmp_path_factory):
    scene = ZeroShotScene("linear:digits", "tiny", "digits", ("colours",), mode="linear")
    model = scene.load(device="cpu")
    folder = tmp_path_factory.mktemp("pools") / "linear"
    pool = create_pool(folder, scene.describe(), model.weights(), model.heads)
    entry = FinetuneJob(folder, Recipe(lr=2e-4, epochs=2, batch_size=128), "cpu").run()
    record_candidate(pool, entry)
    return Workbench(open_pool(folder), device="cpu")


@pytest.mark.slow
def test_the_pool_stores_the_mode_and_the_curves(linear_bench):
    pool = linear_bench.pool
    assert pool.scene["mode"] == "linear" == linear_bench.model.mode == linear_bench.fresh_model().mode
    (entry,) = pool.entries
    assert len(entry.losses) == len(entry.rates) > 1 and entry.losses[-1] < entry.losses[0]
    assert max(entry.rates) == 2e-4 and entry.rates[-1] < 2e-5


@pytest.mark.slow
def test_scaling_the_delta_scales_the_features_as_in_the_linear_model(linear_bench):
    choice = linear_bench.choose(rule="uniform")
    images = linear_bench.images("val").forget.images[:20]

    def raw(choice, scale):
        with linear_bench.at(choice, scale) as model, torch.no_grad():
            return model.raw(model.pixels(images))

    base = raw(None, 0.0)
    whole = raw(choice, 1.0) - base
    assert float(whole.norm()) > 1e-2 * float(base.norm())
    for scale in (0.25, 3.0):
        torch.testing.assert_close(raw(choice, scale) - base, scale * whole, rtol=1e-3, atol=1e-3)
    # The very same delta in the plain model is another function.
    plain = ZeroShotScene("plain", "tiny", "digits", ("colours",)).load(device="cpu")
    plain.load(linear_bench.unlearned(choice, 3.0))
    with torch.no_grad():
        other = plain.clip.encode_image(plain.pixels(images))
    assert float((other - base - 3 * whole).norm()) > 0.05 * float(3 * whole.norm())


@pytest.mark.slow
def test_an_audit_probes_the_linear_model_and_a_retrained_one_around_its_own_weights(linear_bench):
    from negmerge_kit.audits.audit import audit

    choice = linear_bench.choose(rule="uniform")
    base = linear_bench.fresh_model().weights("cpu")
    found = audit(linear_bench, choice, 3.0, retrained=base, probes=("zero-shot",))
    measurements = {who: reading.json() for who, reading in found.probes[0].measurements.items()}
    assert measurements["unlearned"] == linear_bench.score(choice, 3.0, "test").forget.json()
    assert measurements["base"] == measurements["retrained"] == linear_bench.base_scores("test").forget.json()
