"""Small random models with the shapes that break merges: scalars, single elements, empty tensors, buffers."""

from __future__ import annotations

import numpy as np
import torch

from negmerge_kit.merging import sources

SHAPES = {
    "a.weight": (7, 5),
    "b.bias": (1,),
    "c": (),
    "d.conv": (2, 3, 2, 2),
    "e.empty": (0, 4),
    "f": (128,),
    "g": (33,),
}


def make(n: int, *, seed: int = 0, dtype=torch.float32, frozen: float = 0.1, common: float = 1.0, shapes=SHAPES):
    """A base and `n` candidates that share part of their move, with some elements left exactly where they were."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        return torch.randn(shape, generator=generator)

    base = {name: draw(shape).to(dtype) for name, shape in shapes.items()}
    shared = {name: draw(shape) for name, shape in shapes.items()}
    candidates = []
    for _ in range(n):
        candidate = {}
        for name, tensor in base.items():
            move = common * shared[name] + draw(tensor.shape)
            still = torch.rand(tensor.shape, generator=generator) < frozen
            candidate[name] = torch.where(still, tensor.float(), tensor.float() + 0.1 * move).to(dtype)
        candidate["steps"] = torch.tensor(99)
        candidates.append(candidate)
    base["steps"] = torch.tensor(3)
    return base, candidates


def arrays(base, candidates):
    """The task vectors as the oracles take them: float32 (float64 for float64), floating keys that have elements."""
    names = [name for name, tensor in base.items() if tensor.is_floating_point() and tensor.numel()]
    wide = next(iter(base.values())).dtype is torch.float64
    kind = torch.float64 if wide else torch.float32
    return [
        {name: (candidate[name].to(kind) - base[name].to(kind)).numpy() for name in names} for candidate in candidates
    ]


def as_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(torch.float64).numpy()


def in_chunks(monkeypatch, size):
    """Merge in chunks of so many elements; None: as usual."""
    if size is not None:
        monkeypatch.setattr(sources, "CHUNK", size)
        monkeypatch.setattr(sources, "SHORT_CHUNK", size)
