"""Reading open_clip's and timm's tensor names: which block, which kind, in the order in which an image passes them.

open_clip keeps the query, key and value projections of an attention layer in one tensor, `attn.in_proj_weight`; a
report by layer wants them apart. `split_attention` shows them as three views; nothing is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from negmerge_kit.types import Weights

if TYPE_CHECKING:
    from torch import Tensor

THIRDS = ("q", "k", "v")

_BLOCK = re.compile(r"(?:transformer\.resblocks|^blocks|\btrunk\.blocks)\.(\d+)\.(.+)")
_TEXT = re.compile(
    r"(?:.*\.)?(?:text|transformer|token_embedding|positional_embedding|ln_final|text_projection)(?:\.|$)"
)
_THIRD = re.compile(r"(.*attn\.)in_proj_([qkv])_(weight|bias)")
_IN_BLOCK = (
    ("attn.in_proj_q_", "q"),
    ("attn.in_proj_k_", "k"),
    ("attn.in_proj_v_", "v"),
    ("attn.in_proj_", "qkv"),
    ("attn.out_proj.", "out"),
    ("attn.qkv.", "qkv"),
    ("attn.proj.", "out"),
    ("mlp.", "mlp"),
    ("ln_", "ln"),
    ("norm", "ln"),
    ("ls", "ls"),
    ("attn.", "attn"),
)
_OUTSIDE = {
    "conv1": "patch",
    "class_embedding": "class",
    "cls_emb": "class",
    "positional_embedding": "pos",
    "token_embedding": "token",
    "attn_pool": "pool",
    "ln_pre": "ln in",
    "ln_post": "ln out",
    "ln_final": "ln out",
    "proj": "proj",
    "text_projection": "proj",
    "logit_scale": "scale",
    "logit_bias": "scale",
    "patch_embed": "patch",
    "cls_token": "class",
    "pos_embed": "pos",
    "norm_pre": "ln in",
    "norm": "ln out",
    "fc_norm": "ln out",
    "head": "proj",
}
_ORDER = (
    "patch",
    "token",
    "class",
    "pos",
    "ln in",
    "ln",
    "q",
    "k",
    "v",
    "qkv",
    "attn",
    "out",
    "ls",
    "mlp",
    "pool",
    "ln out",
    "proj",
    "scale",
)


class split_attention(Mapping[str, "Tensor"]):
    """Weights in which every fused `attn.in_proj_*` appears as its q, k and v thirds, as views.

    `X.attn.in_proj_weight` [3D, D] becomes `X.attn.in_proj_q_weight`, `…_k_…` and `…_v_…`, each [D, D].

    >>> import torch
    >>> view = split_attention({"attn.in_proj_bias": torch.arange(6.0)})
    >>> list(view), view["attn.in_proj_k_bias"].tolist()
    (['attn.in_proj_q_bias', 'attn.in_proj_k_bias', 'attn.in_proj_v_bias'], [2.0, 3.0])
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __iter__(self) -> Iterator[str]:
        for name in self._weights:
            head, fused, kind = name.rpartition("in_proj_")
            if fused and head.endswith("attn.") and kind in ("weight", "bias"):
                yield from (f"{head}in_proj_{third}_{kind}" for third in THIRDS)
            else:
                yield name

    def __getitem__(self, name: str) -> Tensor:
        third = _THIRD.fullmatch(name)
        if third is None or name in self._weights:
            return self._weights[name]
        return self._weights[f"{third[1]}in_proj_{third[3]}"].chunk(3)[THIRDS.index(third[2])]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def block_and_kind(name: str) -> tuple[int | None, str]:
    """Block number (from 1; None outside the blocks) and kind of an open_clip tensor name.

    >>> block_and_kind("visual.transformer.resblocks.0.attn.in_proj_q_weight")
    (1, 'q')
    >>> block_and_kind("visual.positional_embedding"), block_and_kind("blocks.2.norm1.weight")
    ((None, 'pos'), (3, 'ln'))
    """
    block = _BLOCK.search(name)
    if block:
        rest = block[2]
        return int(block[1]) + 1, next((kind for start, kind in _IN_BLOCK if rest.startswith(start)), rest)
    module = name.removeprefix("visual.").removeprefix("text.").removeprefix("trunk.").partition(".")[0]
    return None, _OUTSIDE.get(module, module)


def layer_of(name: str) -> str:
    """Short label of the layer that a tensor belongs to; tensors with one label are one line of a report.

    >>> layer_of("visual.transformer.resblocks.3.mlp.c_fc.weight"), layer_of("visual.conv1.weight")
    ('b4 mlp', 'patch')
    >>> layer_of("transformer.resblocks.0.ln_1.weight")
    'text b1 ln'
    """
    block, kind = block_and_kind(name)
    label = kind if block is None else f"b{block} {kind}"
    return label if _is_visual(name) or kind == "scale" else f"text {label}"


def reading_order(names: Iterable[str]) -> list[str]:
    """Tensor names as an image, then a text, passes through them; names of one layer keep their order."""
    return sorted(names, key=_position)


def _is_visual(name: str) -> bool:
    """A timm tower alone has no "visual." before its names: what is not the text's is the image's."""
    return name.startswith("visual.") or ".visual." in name or not _TEXT.match(name)


def _position(name: str) -> tuple[int, int, int]:
    block, kind = block_and_kind(name)
    rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
    after = block is None and rank >= _ORDER.index("pool")
    tower = 2 if kind == "scale" else 0 if _is_visual(name) else 1
    return tower, 10_000 if after else block or 0, rank
