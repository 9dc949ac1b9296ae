"""Split and fused attention: the authors keep Q, K, V and O apart, open_clip keeps q, k and v as one tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from negmerge_kit.errors import CheckpointError

SPLIT = re.compile(r"(.*\.)?([QKVO])\.(weight|bias)")


def fuse_attention(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn `attn.Q.weight`, `attn.K.weight`, … into open_clip's `attn.in_proj_weight` and `attn.out_proj.weight`.

    Names that are not split attention stay as they are, and so does the order. Raises CheckpointError where one of
    the four parts is missing.

    >>> parts = {f"attn.{part}.weight": torch.full((1, 1), float(i)) for i, part in enumerate("QKVO")}
    >>> {name: tensor.flatten().tolist() for name, tensor in fuse_attention(parts).items()}
    {'attn.in_proj_weight': [0.0, 1.0, 2.0], 'attn.out_proj.weight': [3.0]}
    """
    split = {
        (stem or "", kind) for name in weights if (match := SPLIT.fullmatch(name)) for stem, _, kind in [match.groups()]
    }
    # A lone module that is called V is no attention: all three inputs and the output must be there.
    split = {(stem, kind) for stem, kind in split if any(f"{stem}{part}.weight" in weights for part in "QK")}
    fused: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = SPLIT.fullmatch(name)
        if match is None or (match[1] or "", match[3]) not in split:
            fused[name] = tensor
            continue
        stem, part, kind = match[1] or "", match[2], match[3]
        if part == "O":
            fused[f"{stem}out_proj.{kind}"] = tensor
        elif part == "Q":
            names = [f"{stem}{other}.{kind}" for other in "QKVO"]
            missing = [other for other in names if other not in weights]
            if missing:
                raise CheckpointError(f"{name} comes without {missing[0]}: the attention is not whole.")
            fused[f"{stem}in_proj_{kind}"] = torch.cat([weights[other] for other in names[:3]])
    return fused
