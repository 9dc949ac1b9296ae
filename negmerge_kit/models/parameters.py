"""Parameter groups of an image tower, by name: all, all but attention, the last blocks, norms only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from negmerge_kit.errors import ParameterError

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

TRAINABLE = {
    "all": "every parameter of the image tower",
    "no-attention": "all but the attention layers inside the blocks, as the authors' code trains CLIP",
    "last-K": "the last K blocks and what follows them, e.g. last-2",
    "norms": "the scales and shifts of normalisation layers",
}
"""What `Recipe.trainable` may say, and what each means."""

_BLOCK = re.compile(r"(?:.+\.)?(?:resblocks|blocks|layers|layer\d+)(?:\.\d+)+(?=\.)")
"""A block as open_clip (`resblocks.3`, `layer2.0`) and timm (`stages.1.blocks.0`, `blocks.3.0`) name it."""

_BEFORE_THE_BLOCKS = ("proj",)
"""Parameters that follow the blocks though open_clip's VisionTransformer declares them first."""


def check_trainable(group: str) -> str:
    """The name of a parameter group, checked: one of TRAINABLE, with a number for K.

    Raises:
        ParameterError: for any other name; the message lists the choices.

    >>> check_trainable("last-2")
    'last-2'
    """
    if (group in TRAINABLE and group != "last-K") or re.fullmatch(r"last-[1-9]\d*", group):
        return group
    raise ParameterError(
        f"trainable = {group!r} is not known: choose all, no-attention, last-K such as last-2, or norms."
    )


def trained_parameters(tower: Module, group: str) -> dict[str, Parameter]:
    """The parameters of an image tower that belong to a group, by their names in the tower.

    `no-attention` leaves out the query, key, value and output projections of every block: the authors' CLIP code swaps
    these layers for a copy without gradients (28,348,416 of ViT-B-32's 87,849,216 image parameters), which the paper
    does not say. `last-K` trains the K last blocks and every parameter behind them: final norm, pooling, projection.

    Raises:
        ParameterError: an unknown group, or a tower that has no such parameters or fewer than K blocks.

    >>> from negmerge_kit.models.tiny_clip import fresh_clip
    >>> tower = fresh_clip().visual
    >>> {group: len(trained_parameters(tower, group)) for group in ("all", "no-attention", "last-1", "norms")}
    {'all': 56, 'no-attention': 40, 'last-1': 15, 'norms': 20}
    """
    check_trainable(group)
    every = dict(tower.named_parameters())
    blocks = _blocks(every)
    if group == "all":
        return every
    if group == "norms":
        chosen = {
            f"{path}.{name}" if path else name
            for path, module in tower.named_modules()
            if "norm" in type(module).__name__.lower()
            for name, _ in module.named_parameters(recurse=False)
        }
    elif group == "no-attention":
        chosen = {name for name, block in blocks.items() if block is None or "attn" not in name.split(".")}
        if len(chosen) == len(every):
            chosen = set()
    else:
        chosen = _last(blocks, int(group.removeprefix("last-")))
    if not chosen:
        what = "attention layers inside blocks" if group == "no-attention" else "such parameters"
        raise ParameterError(f"trainable = {group!r} does not fit this image tower, which has no {what}: choose all.")
    return {name: parameter for name, parameter in every.items() if name in chosen}


def _blocks(names: Iterable[str]) -> dict[str, str | None]:
    """Each parameter's block, or None outside of them; a stage that holds blocks is none itself."""
    found = {name: match[0] if (match := _BLOCK.match(name)) else None for name in names}
    stages = {block.rpartition(".")[0].rpartition(".")[0] for block in found.values() if block}
    return {name: None if block in stages else block for name, block in found.items()}


def _last(blocks: dict[str, str | None], count: int) -> set[str]:
    """Names in the last `count` blocks or behind the first of them."""
    order = list(dict.fromkeys(block for block in blocks.values() if block is not None))
    if len(order) < count:
        raise ParameterError(
            f"trainable = 'last-{count}' does not fit this image tower, which has {len(order)} "
            "blocks: choose a smaller K, or all."
        )
    kept = set(order[-count:])
    chosen, reached = set(), False
    for name, block in blocks.items():
        reached = reached or block in kept
        if block in kept or (block is None and (reached or name in _BEFORE_THE_BLOCKS)):
            chosen.add(name)
    return chosen
