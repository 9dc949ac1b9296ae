"""LoRA adapters as candidates: their files read, their deltas made tensor by tensor when asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging.alike import layout_of
from negmerge_kit.merging.deltas import compute_dtype
from negmerge_kit.merging.lora import low_rank_delta, low_rank_scale
from negmerge_kit.merging.sources import peek
from negmerge_kit.types import Weights

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")


class Adapter(Mapping[str, Tensor]):
    """The task vectors of one PEFT adapter over a base: names of the base's tensors to their deltas.

    `holds_deltas` tells the fold not to subtract the base again. Tensors that the adapter leaves alone are not listed.
    """

    holds_deltas = True

    def __init__(self, folder: Path, base: Weights) -> None:
        self.path = folder
        self._config = _config(folder)
        self._stored: Checkpoint = open_checkpoint(folder / "adapter_model.safetensors")
        self.files = (*self._stored.files, folder / CONFIG)
        self._base = base
        self._spec = layout_of(base)
        self._parts: dict[str, tuple[str, ...]] = {}
        for name in self._stored:
            self._sort_in(name)
        for target, parts in self._parts.items():
            if target not in self._spec:
                raise CheckpointError(
                    f"{folder} adapts {target}, which the base lacks: give the base that it was trained on."
                )
            if len(parts) == 2 and not all(part in self._stored for part in parts):
                raise CheckpointError(f"{folder} has only one of two factors for {target}: save the adapter again.")

    def __getitem__(self, name: str) -> Tensor:
        parts = self._parts[name]
        dtype = compute_dtype(self._spec[name][1])
        if len(parts) == 1:  # a tensor saved whole beside the factors: a head, a bias
            return self._stored[parts[0]].to(dtype) - peek(self._base, name).to(dtype)
        a, b = (self._stored.view(part) for part in parts)
        rank = a.shape[0]
        scale = low_rank_scale(self._alpha(name), rank, rank_stabilised=bool(self._config.get("use_rslora")))
        turned = parts[0].endswith("embedding_A") or bool(self._config.get("fan_in_fan_out"))
        return low_rank_delta(a, b, scale, transposed=turned).to(dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name to the delta's shape and the base's dtype, without multiplying anything out."""
        return {name: (self._shape(name), self._spec[name][1]) for name in self._parts}

    def _sort_in(self, name: str) -> None:
        plain = name.removeprefix(PREFIX)
        if "lora_magnitude_vector" in plain:
            raise CheckpointError(
                f"{self.path} is a DoRA adapter, whose delta is no product of two factors: "
                "merge it into its base and give the whole checkpoint."
            )
        for ending in FACTORS:
            if plain.endswith(ending):
                a_ending = ending.replace("_B", "_A")
                stem = name.removesuffix(ending)
                self._parts[plain.removesuffix(ending) + ".weight"] = (
                    stem + a_ending,
                    stem + a_ending.replace("_A", "_B"),
                )
                return
        self._parts[plain.replace(".modules_to_save", "").replace(".base_layer", "")] = (name,)

    def _shape(self, name: str) -> tuple[int, ...]:
        shapes = [self._stored.layout()[part][0] for part in self._parts[name]]
        if len(shapes) == 1:
            return shapes[0]
        a, b = shapes
        shape = (b[0], *a[1:])
        turned = self._parts[name][0].endswith("embedding_A") or bool(self._config.get("fan_in_fan_out"))
        return shape[::-1] if turned else shape

    def _alpha(self, name: str) -> float:
        module = name.removesuffix(".weight")
        for pattern, alpha in (self._config.get("alpha_pattern") or {}).items():
            if module == pattern or module.endswith("." + pattern):
                return float(alpha)
        return float(self._config["lora_alpha"])


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return folder.is_dir() and (folder / CONFIG).exists()


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read ({error}): save the adapter again.") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA" or not isinstance(config.get("lora_alpha"), (int, float)):
        raise CheckpointError(
            f"{folder} is an adapter of type {kind!r}: only LORA adapters have a delta to merge; "
            "merge others into their base and give the whole checkpoint."
        )
    return dict(config)
