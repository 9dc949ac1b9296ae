"""Base, retrained model and shadow models are trained alike: one recipe, one answer to whether images are mirrored."""

import pytest

from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.lab import provenance
from negmerge_kit.lab.comparison.baseline_rows import retrained, yardstick_of
from negmerge_kit.lab.comparison.terms import Terms
from negmerge_kit.lab.training import from_scratch
from negmerge_kit.lab.workbench import Workbench
from negmerge_kit.sweeps.embedded import start_pool
from negmerge_kit.vision.forgetting import Forgetting, parts_of
from negmerge_kit.vision.parted import PartedSource
from negmerge_kit.vision.scene import parted_scene


@pytest.fixture
def runs(monkeypatch):
    """Every run as (images, epochs, whether it may mirror), of images that may be mirrored; nothing is trained."""
    runs, init = [], PartedSource.__init__

    def mirrored(self, *given):
        init(self, *given)
        self.flips = True

    def finetune(model, images, recipe, *, may_mirror, **how):
        runs.append((len(images), recipe.epochs, may_mirror))
        yield from ()

    monkeypatch.setattr(PartedSource, "__init__", mirrored)
    monkeypatch.setattr(from_scratch, "finetune", finetune)
    return runs


def test_all_are_trained_as_the_base(runs, tmp_path, monkeypatch):
    scene = parted_scene("mirrored", "classifier:tiny", Forgetting("scans"), training={"epochs": 3})
    pool, _ = start_pool(scene, tmp_path / "pool", device="cpu")
    bench, terms = Workbench(pool, device="cpu"), Terms(shadows=4)
    yardstick = yardstick_of(bench, terms)
    made = retrained(yardstick, terms).made_by["retraining"]
    (fingerprint,) = made["remaining"]
    assert fingerprint == parts_of(scene).remaining.fingerprint() and made["may_mirror"] is True
    assert yardstick.shadows is not None
    seen, remaining, shadow = 1200, 1080, (1200 + 240 + 357) / 2
    assert [(epochs, mirror) for _, epochs, mirror in runs] == [(3, True)] * 6
    assert [n for n, _, _ in runs[:2]] == [seen, remaining]
    assert all(abs(n - shadow) < 150 for n, _, _ in runs[2:])

    # Shadow models of another answer, code, torch or device are not these.
    folder = pool.folder / "shadows"
    made_from = open_checkpoint(next(folder.iterdir())).metadata
    assert made_from["may_mirror"] is True and made_from["recipe"]["epochs"] == 3
    assert provenance.made_with(bench.model.device).items() <= made_from.items()
    monkeypatch.setattr(provenance, "code_digest", lambda: "another version")
    assert yardstick_of(bench, terms).shadows is not None
    assert len(runs) == 10 and len(list(folder.iterdir())) == 8
