"""A stand whose models are a few numbers: each image is one direction, right where the weights point along it."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from negmerge_kit.image_set import ImageSet
from negmerge_kit.merging import merge
from negmerge_kit.merging.rules import find_rule
from negmerge_kit.models.classifier import BATCH
from negmerge_kit.pools.pool import Candidate, Pool, StoredFile
from negmerge_kit.pools.pool_writer import candidate_id
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.unlearning.delta_cache import Choice, Merged
from negmerge_kit.unlearning.scorer import Scorer


class LinearModel:
    """Answers class 1 where x·w > 0; the weights are the first entry of an image's bytes onwards, centred at 128."""

    device = torch.device("cpu")
    at_once = 2 * BATCH["cpu"]

    def __init__(self, weights):
        self.weights = weights

    def features(self, images):
        return ((images.flatten(1).float() - 128) / 32) @ self.weights.flatten()[:, None]

    def head(self, name):
        return torch.tensor([[0.0], [1.0]])


class SmallPool(Pool):
    """A pool without files: nothing in it can be of another base."""

    def stranger(self, stored):
        return None


class SmallStand:
    """What a comparison asks of a workbench, for a linear model and candidates made by hand."""

    def __init__(self, base, deltas, images):
        self.base = {"w": base}
        self.candidates = {}
        scene = {"mode": "standard", "sets": []}
        pool = SmallPool(Path("small"), scene, StoredFile("b", "0"), StoredFile("h", "0"), ())
        entries = []
        for index, delta in enumerate(deltas):
            id = candidate_id(pool, {"seed": index})
            entries.append(Candidate(id, f"{id}.safetensors", f"sha-{index}", {"seed": index}, seconds=1.0))
            self.candidates[id] = {"w": base + delta}
        self.pool = SmallPool(pool.folder, pool.scene, pool.base_file, pool.heads_file, tuple(entries))
        self._images = images
        self._merged = {}
        self.answered = 0
        self.scorer = Scorer(self)

    def choose(self, candidates=None, rule="negmerge", params=None, *, buffers="keep"):
        ids = self.pool.ids if candidates is None else candidates
        return Choice(tuple(ids), rule, tuple(sorted(find_rule(rule).resolve(params or {}).items())), buffers)

    def merged(self, choice):
        if choice not in self._merged:
            stream = merge(
                self.base, [self.candidates[id] for id in choice.candidates], rule=choice.rule, **dict(choice.params)
            )
            self._merged[choice] = Merged(dict(stream), stream.counts, 0.0)
        return self._merged[choice]

    def images(self, split):
        return self._images[split]

    def yield_to_foreground(self):
        pass

    @contextmanager
    def at(self, choice, scale):
        self.answered += 1
        weights = self.base["w"]
        yield LinearModel(weights - scale * self.merged(choice).delta["w"] if choice is not None else weights)


def image_set(name, split, directions):
    """Images whose bytes are `directions` [n, 3·16·16] in steps of 1/32, all of class 1."""
    pixels = (directions * 32 + 128).round().clamp(0, 255).to(torch.uint8).reshape(-1, 3, 16, 16)
    return ImageSet(name, pixels, torch.ones(len(pixels), dtype=torch.int64), ("no", "yes"), split)


SIZE = 3 * 16 * 16


def small_images(seed, forget, retain, *, n_forget=150, n_retain=600):
    """Both splits, drawn by two functions (generator, n) -> [n, SIZE]."""
    made = {}
    for index, split in enumerate(("val", "test")):
        draw = torch.Generator().manual_seed(1000 * seed + index)
        made[split] = Splits(
            image_set("forget", split, forget(draw, n_forget)), (image_set("keep", split, retain(draw, n_retain)),)
        )
    val = made["val"]
    made["live"] = Splits(
        replace(val.forget.take(60), split="live"), tuple(replace(part.take(60), split="live") for part in val.retain)
    )
    return made


GRID = [step / 10 for step in range(11)]


def stand(n=4, seed=0, step=0.35):
    """Candidates that share a direction which both sides look at, plus noise of their own."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.zeros(SIZE)
    weights[0] = 3.0
    common = step * torch.randn(SIZE, generator=draw)
    deltas = [common * (torch.arange(SIZE) > 0) + 0.2 * torch.randn(SIZE, generator=draw) for _ in range(n)]

    def images(generator, count):
        x = 0.3 * torch.randn(count, SIZE, generator=generator)
        x[:, 0] = 1.0
        return x

    return SmallStand(weights, deltas, small_images(seed, lambda g, n: images(g, n) + 0.03 * common.sign(), images))
