"""Old checkpoints to safetensors: modules, state dicts and their wrappers, told apart and named alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from negmerge_kit.checkpoints.attention import fuse_attention
from negmerge_kit.checkpoints.outputs import check_outputs, make_folder
from negmerge_kit.checkpoints.pickles import errors_named, read_pickled
from negmerge_kit.checkpoints.unpickler import Inert, Pending
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.errors import CheckpointError
from negmerge_kit.types import Json

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "ema_state_dict")
DEEPEST = 64
PREFIXES = ("module.", "model.", "image_encoder.model.")


@dataclass
class Conversion:
    """What a file held: its weights under open_clip's names, and what was left behind."""

    weights: dict[str, Tensor]
    dropped: list[str] = field(default_factory=list)
    named: tuple[str, ...] = ()


def load_legacy(path: str | Path, *, fuse: bool = True) -> Conversion:
    """Read a .pt or .pth file without running it, as a flat state dict.

    Understands state dicts, `{"state_dict": …}` wrappers and whole pickled modules such as the authors' ImageEncoder
    and ClassificationHead; common prefixes (`module.`, `model.`) go, and with `fuse` split attention becomes
    open_clip's. Optimisers, transforms and the like are listed in `dropped`. Raises CheckpointError when nothing in
    the file is a tensor, or when it is damaged.
    """
    path = Path(path)
    old = read_pickled(path)
    dropped: list[str] = []
    pending = _find_weights(old.content, dropped)
    if not pending:
        raise CheckpointError(f"{path} holds no weights: it is a {_kind(old.content)}. Give a checkpoint.")
    with errors_named(path):
        weights = _without_prefix({name: place.read(old.storages) for name, place in pending.items()})
        weights = fuse_attention(weights) if fuse else weights
    return Conversion(weights, dropped, old.named)


def convert_files(paths: list[str], out: str | Path) -> Json:
    """Convert old checkpoints into `out`/NAME.safetensors, one each; what `negmerge convert` prints.

    Files of the same name, from different folders, keep their folder's name in front. Returns
    `{"files": [{"path", "out", "tensors", "elements", "dropped", "named"}]}`: `named` are the classes that the pickle
    asked for and did not get.
    """
    folder = make_folder(Path(out))
    old = [Path(path) for path in paths]
    stems = [path.stem for path in old]
    targets: dict[Path, Path] = {}
    for path, stem in zip(old, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}-{stem}"
        target = folder / f"{name}.safetensors"
        if target in targets:
            raise CheckpointError(f"{path} and another input would both become {target}: convert them one by one.")
        targets[target] = path
    check_outputs(targets, old)
    files: list[Json] = []
    for target, path in targets.items():
        conversion = load_legacy(path)
        metadata = {"converted_from": path.name, "dropped": conversion.dropped}
        save_checkpoint(target, conversion.weights.items(), like=conversion.weights, metadata=metadata)
        files.append(
            {
                "path": str(path),
                "out": str(target),
                "tensors": len(conversion.weights),
                "elements": sum(tensor.numel() for tensor in conversion.weights.values()),
                "dropped": conversion.dropped,
                "named": list(conversion.named),
            }
        )
    return {"files": files}


def _find_weights(content: Any, dropped: list[str]) -> dict[str, Pending]:
    if isinstance(content, Inert) and _is_module(content):
        return _of_module(content, "", dropped)
    if not isinstance(content, Mapping):
        return {}
    flat = {str(name): value for name, value in content.items() if isinstance(value, Pending)}
    inner = {str(name): value for name, value in content.items() if not isinstance(value, Pending)}
    if not flat:
        for name in (*WRAPPERS, *inner):
            if name in inner and (found := _find_weights(inner[name], dropped)):
                dropped += [f"{other} ({_kind(value)})" for other, value in inner.items() if other != name]
                return found
    dropped += [f"{name} ({_kind(value)})" for name, value in inner.items()]
    return flat


def _of_module(module: Inert, prefix: str, dropped: list[str]) -> dict[str, Pending]:
    """A module's state dict: parameters and persistent buffers, its children's after its own."""
    if prefix.count(".") > DEEPEST:
        raise CheckpointError("its modules are nested without end: the file is damaged.")
    state = vars(module)
    passing = state.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, (set, list, tuple)) else ()
    found: dict[str, Pending] = {}
    for group in ("_parameters", "_buffers"):
        for name, value in _table(state.get(group)).items():
            if isinstance(value, Pending) and name not in passing:
                found[prefix + str(name)] = value
            elif value is not None:
                dropped.append(f"{prefix}{name} ({_kind(value)})")
    for name, child in _table(state.get("_modules")).items():
        if isinstance(child, Inert) and _is_module(child):
            found |= _of_module(child, f"{prefix}{name}.", dropped)
    dropped += [
        f"{prefix}{name} ({_kind(value)})"
        for name, value in state.items()
        if isinstance(value, (Inert, Pending)) and not name.startswith("_")
    ]
    return found


def _table(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_module(value: Inert) -> bool:
    return {"_parameters", "_modules"} <= set(vars(value))


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off a wrapper's name while every key has it."""
    for _ in range(3):
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in weights)), None)
        if prefix is None:
            break
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _kind(value: Any) -> str:
    if isinstance(value, Inert):
        return type(value).named or type(value).__name__
    return "tensor" if isinstance(value, Pending) else type(value).__name__
