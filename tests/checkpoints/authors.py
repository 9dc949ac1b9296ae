"""Small modules saved as the authors of NegMerge save theirs: whole, with attention split into Q, K, V and O."""

from __future__ import annotations

import sys
import types

import torch
from torch import nn


class CustomMultiheadAttention(nn.Module):
    """Attention with four separate maps; same arithmetic as nn.MultiheadAttention."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = fused.num_heads, fused.head_dim
        weights = [*fused.in_proj_weight.chunk(3), fused.out_proj.weight]
        biases = [*fused.in_proj_bias.chunk(3), fused.out_proj.bias]
        for name, weight, bias in zip("QKVO", weights, biases, strict=True):
            part = nn.Linear(*weight.shape[::-1])
            part.load_state_dict({"weight": weight.detach().clone(), "bias": bias.detach().clone()})
            setattr(self, name, part.requires_grad_(False))

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
            for part in (self.Q, self.K, self.V)
        )
        weights = (q @ k.transpose(-2, -1) / self.head_dim**0.5).softmax(-1)
        return self.O((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x):
        y = self.ln_1(x)
        y = self.attn(y) if isinstance(self.attn, CustomMultiheadAttention) else self.attn(y, y, y)[0]
        return self.bn((x + y).mean(1))


class Tower(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.visual = Block(width)
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("attn_mask", torch.zeros(2, 2), persistent=False)

    def forward(self, x):
        return self.visual(x)


class Normalize:
    """A transform such as the authors pickle along."""

    def __init__(self) -> None:
        self.mean = torch.tensor([0.5])


class ImageEncoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.model.visual.attn = CustomMultiheadAttention(self.model.visual.attn)
        self.train_preprocess = Normalize()
        self.cache_dir = None


class ClassificationHead(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 3)
        self.normalize = True


def save_as_the_authors_do(thing, path, **options) -> None:
    """torch.save under the module name `src.modeling`, which is gone again afterwards."""
    kinds = (CustomMultiheadAttention, Block, Tower, Normalize, ImageEncoder, ClassificationHead)
    module = types.ModuleType("src.modeling")
    saved = {kind: kind.__module__ for kind in kinds}
    sys.modules["src"], sys.modules["src.modeling"] = types.ModuleType("src"), module
    try:
        for kind in kinds:
            setattr(module, kind.__name__, kind)
            kind.__module__ = "src.modeling"
        torch.save(thing, path, **options)
    finally:
        for kind, name in saved.items():
            kind.__module__ = name
        del sys.modules["src"], sys.modules["src.modeling"]
