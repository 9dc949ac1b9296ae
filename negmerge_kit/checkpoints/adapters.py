"""LoRA adapters as candidates: their files read, their deltas computed tensor by tensor on access."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from negmerge_kit.checkpoints.adapter_config import CONFIG, DIFFUSERS_KEY, Scaling, read_scaling, scaling_of
from negmerge_kit.checkpoints.header import read_header
from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.errors import CheckpointError
from negmerge_kit.merging.deltas import compute_dtype
from negmerge_kit.merging.layout import layout_of, peek
from negmerge_kit.merging.lora import low_rank_delta
from negmerge_kit.safe_json import parse_json
from negmerge_kit.types import Weights

PEFT_FILE, DIFFUSERS_FILE = "adapter_model.safetensors", "pytorch_lora_weights.safetensors"
PEFT_PREFIX = "base_model.model."
KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
COMPONENT = re.compile(r"(?:unet|transformer|text_encoder|prior|controlnet)(?:_\d)?\.")
"""What a diffusers pipeline calls its parts; a file may adapt several."""
FACTOR = re.compile(
    r"(?P<module>.+?)(?:\.lora_(?P<peft>[AB])\.(?:weight|(?P<bias>bias))|\.lora_embedding_(?P<embedding>[AB])"
    r"|(?:\.lora|\.lora_linear_layer|_lora)\.(?P<way>down|up)\.weight|(?P<alpha>(?:\.lora|_lora)?\.alpha))"
)
"""A stored tensor of an adapter: PEFT's names, diffusers' own, and the alpha that some files hold as a tensor."""
ROLES = {"A": "A", "B": "B", "down": "A", "up": "B"}
Shape = tuple[int, ...]


class Adapter(Mapping[str, Tensor]):
    """The task vectors of one LoRA adapter over a base: names of the base's tensors to their deltas.

    PEFT's folders and files, and diffusers' `pytorch_lora_weights.safetensors`. `holds_deltas` says that the base is
    not to be subtracted again. Tensors that the adapter leaves alone are not listed. With `prefix` the base is the
    part of a model whose names start so.

    Raises:
        CheckpointError: for an adapter whose delta is not scale · B A of this base, or that is damaged.
    """

    holds_deltas = True

    def __init__(self, path: Path, base: Weights, *, prefix: str = "") -> None:
        self.path = path
        folder = path if path.is_dir() else path.parent
        self._configured = (folder / CONFIG).is_file() and (path.is_dir() or path.name == PEFT_FILE)
        self._stored: Checkpoint = open_checkpoint(_file(path, PEFT_FILE if self._configured else DIFFUSERS_FILE))
        self.files = (*self._stored.files, *([folder / CONFIG] if self._configured else []))
        self._base = base
        self._spec = layout_of(base)
        self._parts: dict[str, dict[str, str]] = {}  # a base's tensor -> role -> name in the adapter's file
        self._modules: dict[str, str] = {}  # the same tensor -> the module that patterns are held against
        names = self._own_names(prefix)
        self._scaling = read_scaling(folder) if self._configured else self._without_config(names)
        for name, plain in names.items():
            self._sort_in(name, plain, prefix)
        self._alphas: dict[str, float] = {}
        for name, parts in self._parts.items():
            if "alpha" in parts:
                self._alphas[name] = self._alpha(parts.pop("alpha"))
            self._check(name, parts)
        self._check_orientation()

    def __getitem__(self, name: str) -> Tensor:
        parts, dtype = self._parts[name], compute_dtype(self._spec[name][1])
        terms = []
        if "whole" in parts:  # a head, a bias, an embedding that was saved next to the factors
            terms.append(self._stored[parts["whole"]].to(dtype) - peek(self._base, name).to(dtype))
        if "bias" in parts:
            terms.append(self._stored[parts["bias"]].to(dtype) * self._scale(name))
        if "A" in parts:
            a, b = self._stored.view(parts["A"]), self._stored.view(parts["B"])
            terms.append(low_rank_delta(a, b, self._scale(name), transposed=self._turned(name)).to(dtype))
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def layout(self) -> dict[str, tuple[Shape, torch.dtype]]:
        """Name to the delta's shape and the base's dtype, without multiplying anything out."""
        return {name: self._spec[name] for name in self._parts}

    def _own_names(self, prefix: str) -> dict[str, str]:
        """The file's names of what changes this base, without what the file puts in front of them."""
        if kohya := [name for name in self._stored if name.startswith(KOHYA)]:
            raise CheckpointError(
                f"{self.path} names its layers as kohya's trainer does ({kohya[0]}): load it into its pipeline with "
                "diffusers and save it with save_lora_weights."
            )
        names: dict[str, str] = {}
        left_out = []
        for component, members in self._components().items():
            plain = {name: _plain(name.removeprefix(component)) for name in members}
            plain = {name: target.removeprefix(prefix) for name, target in plain.items() if target.startswith(prefix)}
            known = [self._target(name)[0] in self._spec for name in plain.values()]
            if component and not any(known):
                left_out.append(f"{component.rstrip('.')} ({len(members)} tensors)")
            else:
                names |= plain
        if not names:
            raise CheckpointError(
                f"{self.path} adapts {' and '.join(left_out) or 'nothing'}, no tensor of which is in the base: "
                "give as base the weights that it was trained on."
            )
        if left_out:
            warnings.warn(
                f"{self.path} also adapts {' and '.join(left_out)}, which this base is not: left out here.",
                stacklevel=2,
            )
        return names

    def _components(self) -> dict[str, list[str]]:
        if self._configured:
            return {"": list(self._stored)}
        groups: dict[str, list[str]] = {}
        for name in self._stored:
            found = COMPONENT.match(name)
            groups.setdefault(found.group() if found else "", []).append(name)
        return groups

    def _without_config(self, names: Mapping[str, str]) -> Scaling:
        """The scaling of a file that comes without `adapter_config.json`, by what it holds itself."""
        component = "".join({found.group() for name in names if (found := COMPONENT.match(name))})
        alphas = any(name.endswith(".alpha") for name in names)
        if DIFFUSERS_KEY in self._stored.raw_metadata:
            try:
                record = parse_json(self._stored.raw_metadata[DIFFUSERS_KEY])
                own = {key.removeprefix(component): value for key, value in record.items() if key.startswith(component)}
            except (ValueError, AttributeError) as error:
                raise CheckpointError(
                    f"{self.path} carries a configuration that cannot be read ({error}): save it again."
                ) from error
            if own:
                if alphas:
                    raise CheckpointError(
                        f"{self.path} gives its alpha twice, as tensors and in its configuration: save it again."
                    )
                return scaling_of({"peft_type": "LORA"} | own, self.path)
        if not (component or alphas or self._stored.path.name == DIFFUSERS_FILE):
            raise CheckpointError(
                f"{self.path} holds LoRA factors and nothing of their alpha, by which they are scaled: "
                f"put its {CONFIG} next to it and call it {PEFT_FILE}."
            )
        return Scaling()

    def _target(self, plain: str) -> tuple[str, str, str]:
        """The base's tensor that a stored one changes, in which role, and the module that patterns are held against."""
        match = FACTOR.fullmatch(plain)
        if match is None or (match["alpha"] and self._configured):
            if "lora_" in plain or "trainable_tokens" in plain:
                hint = "a DoRA adapter" if "magnitude" in plain else "another kind of adapter"
                raise CheckpointError(
                    f"{self.path} holds {plain}, as {hint} does, whose change is not scale · B A: "
                    "merge it into its base and give the whole checkpoint."
                )
            return plain.replace(".modules_to_save", "").replace(".base_layer", ""), "whole", ""
        module = match["module"]
        if ".base_layer" in module:
            # Measured with PEFT 0.21: forward and merge add this delta twice, once here and once in the inner layer.
            raise CheckpointError(
                f"{self.path} adapts an attention layer's output projection ({plain}), which PEFT applies twice, so "
                "that the file alone does not say what was trained: merge it into its base with PEFT's "
                "merge_and_unload and give the whole checkpoint."
            )
        if match["alpha"] or match["bias"]:
            role = "alpha" if match["alpha"] else "bias"
            return f"{module}.{'weight' if match['alpha'] else 'bias'}", role, module
        return f"{module}.weight", ROLES[match["peft"] or match["embedding"] or match["way"]], module

    def _sort_in(self, name: str, plain: str, prefix: str) -> None:
        target, role, module = self._target(plain)
        if target not in self._spec:
            if role == "whole":
                raise CheckpointError(
                    f"{self.path} holds {target} whole (modules_to_save), which the base lacks, so that there is no "
                    "delta to it: save the adapter without that module, or give a base that has it."
                )
            raise CheckpointError(
                f"{self.path} adapts {target}, which the base lacks: give the base that it was trained on."
            )
        if not self._spec[target][1].is_floating_point:
            return  # a counter, such as num_batches_tracked: the base's stays
        parts = self._parts.setdefault(target, {})
        if role in parts:
            raise CheckpointError(f"{self.path} holds {parts[role]} and {name} for one place: save the adapter again.")
        parts[role] = name
        if module:
            self._modules[target] = prefix + module

    def _check(self, name: str, parts: Mapping[str, str]) -> None:
        """Refuse what does not fit the base, from the headers alone."""
        layout, shape = self._stored.layout(), self._spec[name][0]
        for stored in parts.values():
            if not layout[stored][1].is_floating_point:
                raise CheckpointError(f"{self.path} holds {stored} as {layout[stored][1]}: factors are floating.")
        for role in ("whole", "bias"):
            if role in parts and layout[parts[role]][0] != shape:
                raise self._unfit(parts[role], layout[parts[role]][0], f"{name} of the base is {list(shape)}")
        lonely = "bias" in parts and "A" not in self._parts.get(name.removesuffix("bias") + "weight", ())
        if lonely or ("A" in parts) != ("B" in parts) or not parts:
            raise CheckpointError(f"{self.path} has only one of two factors for {name}: save the adapter again.")
        if "A" not in parts:
            return
        a, b = (layout[parts[role]][0] for role in "AB")
        if len(a) < 2 or len(b) != len(a) or 0 in (*a, *b):
            raise self._unfit(parts["A"], a, f"its partner is {list(b)}; were a sharded model's parts not gathered?")
        if a[0] != b[1] or any(side != 1 for side in b[2:]):
            raise self._unfit(parts["A"], a, f"{parts['B']} is {list(b)}, of another rank")
        rank = self._scaling.rank_of(self._modules[name])
        if rank is not None and rank != a[0]:
            raise self._unfit(parts["A"], a, f"the configuration gives it rank {rank}")
        if self._product(name) not in (shape, shape[::-1] if self._may_turn(name) else shape):
            raise self._unfit(parts["A"], a, f"with {parts['B']} {list(b)} that is no change of {list(shape)}")

    def _unfit(self, stored: str, shape: Shape, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} holds {stored} as {list(shape)}, and {why}: give the adapter's own base, or save it again."
        )

    def _product(self, name: str) -> Shape:
        """The shape of B A as a layer applies it, and of its transpose for an embedding."""
        a, b = (self._stored.layout()[self._parts[name][role]][0] for role in "AB")
        shape = (b[0], *a[1:])
        return shape[::-1] if self._embeds(name) else shape

    def _embeds(self, name: str) -> bool:
        return "embedding_A" in self._parts[name]["A"]

    def _may_turn(self, name: str) -> bool:
        return len(self._spec[name][0]) == 2 and not self._embeds(name)

    def _turned(self, name: str) -> bool:
        """Whether the base stores the transpose of B A: by the shapes, or for a square one by the configuration."""
        if not self._may_turn(name):
            return self._embeds(name)
        rows, columns = self._spec[name][0]
        return self._scaling.transposed if rows == columns else self._product(name) != (rows, columns)

    def _check_orientation(self) -> None:
        """Refuse square weights of mixed orientation: PEFT keeps one flag, fan_in_fan_out, that of the last layer."""
        turning = [name for name, parts in self._parts.items() if "A" in parts and self._may_turn(name)]
        squares = [name for name in turning if self._spec[name][0][0] == self._spec[name][0][1]]
        others = {self._turned(name) for name in turning if name not in squares}
        if squares and others and others != {self._scaling.transposed}:
            raise CheckpointError(
                f"{self.path} does not say whether {squares[0]} is stored [in, out] or [out, in]: its other layers "
                f"differ from fan_in_fan_out {self._scaling.transposed}. Merge it into its base and give the whole "
                "checkpoint."
            )

    def _scale(self, name: str) -> float:
        """Factor of B A of a layer, and of B's bias."""
        weight = name if "A" in self._parts[name] else name.removesuffix("bias") + "weight"
        rank = self._stored.layout()[self._parts[weight]["A"]][0][0]
        if weight in self._alphas:
            return Scaling(alpha=self._alphas[weight]).scale(weight, rank)
        return self._scaling.scale(self._modules[weight], rank)

    def _alpha(self, stored: str) -> float:
        tensor = self._stored[stored]
        if tensor.numel() != 1 or not math.isfinite(float(tensor)):
            raise CheckpointError(f"{self.path} holds {stored}, which is no finite number: save the adapter again.")
        return float(tensor)


def is_adapter(path: Path) -> bool:
    """Whether a folder or a safetensors file holds LoRA factors rather than whole weights."""
    if path.is_dir():
        return (path / CONFIG).is_file() or (path / DIFFUSERS_FILE).is_file()
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        names = read_header(path).entries
    except CheckpointError:
        return False  # opening it raises an error that says what is wrong
    return any(
        name.startswith(KOHYA) or ((match := FACTOR.fullmatch(_plain(name))) is not None and not match["alpha"])
        for name in names
    )


def _file(path: Path, name: str) -> Path:
    """The adapter's weights: the file itself, or the one of this name in the folder."""
    if not path.is_dir():
        return path
    old = path / name.replace(".safetensors", ".bin")
    if old.is_file() and not (path / name).exists():
        raise CheckpointError(
            f"{path} holds its adapter as a pickle: `negmerge convert {old} --out {path}` makes it readable."
        )
    return path / name


def _plain(name: str) -> str:
    """A stored name as the model calls the layer: without PEFT's wrapper and without attention processors."""
    return name.removeprefix(PEFT_PREFIX).replace(".processor.", ".").replace(".to_out_lora.", ".to_out.0.lora.")
