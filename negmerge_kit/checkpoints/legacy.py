"""Old checkpoints to safetensors: modules, state dicts and their wrappers, kept apart and named alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from negmerge_kit.checkpoints.attention import fuse_attention
from negmerge_kit.checkpoints.header import check_name
from negmerge_kit.checkpoints.normalise import unwrapped
from negmerge_kit.checkpoints.old_files import TENSORS, OldFile, Stored, errors_named, tensor_of
from negmerge_kit.checkpoints.overwrite_guard import check_outputs, make_folder
from negmerge_kit.checkpoints.pickles import Made, Name, Table
from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.errors import CheckpointError
from negmerge_kit.safe_json import shortened
from negmerge_kit.types import Json

SCRIPTED = "__torch__."
"""Under this name torch.jit.save pickles modules."""
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "network",
    "params",
    "weights",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "params_ema",
    "ema",
)
"""What trainers call a state dict among other things; where one is called so, tensors next to it are none."""
DEEPEST, DEEPEST_WRAPPER = 64, 16
LONGEST_NAME = 1000
MOST_LETTERS = 20_000_000
"""In all the names of a file's tensors: a model of 100,000 has 6 million."""
MOST_TIMES = 64
"""How often a file's bytes may be shown: tied weights and views come over apart."""


@dataclass
class Conversion:
    """Content of an old file: its weights under open_clip's names, what was left behind, what was done to names."""

    weights: dict[str, Tensor]
    dropped: list[str] = field(default_factory=list)
    named: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_legacy(path: str | Path, *, weights: str | None = None, fuse: bool = True) -> Conversion:
    """Read a .pt or .pth file without running it, as a flat state dict of views of the file.

    Understands state dicts, `{"state_dict": …}` wrappers, whole pickled modules such as the authors' ImageEncoder and
    ClassificationHead, and TorchScript archives; wrappers in names (`module._orig_mod.`) go, and with `fuse` split
    attention becomes open_clip's. `weights` names one of several state dicts, such as `state_dict_ema`. Optimisers,
    transforms and the like are listed in `dropped`.

    Raises:
        CheckpointError: when nothing in the file is a tensor, when it holds several state dicts and none was named,
            or when it is damaged.
    """
    path = Path(path)
    with errors_named(path):
        old = OldFile(path)
        found = _state_dicts(old.content)
        if not found:
            raise CheckpointError(f"it holds no weights: it is a {_kind(old.content)}. Give a checkpoint.")
        chosen = _choose(found, weights)
        read = _read(old, chosen.tensors)
        names = unwrapped(read)
        flat = {name: read[own] for own, name in names.items()}
        flat = fuse_attention(flat) if fuse else flat
    own = next((own for own, name in names.items() if own != name), None)
    notes = () if own is None else (f"names read without their wrappers, such as {own} as {names[own]}",)
    return Conversion(flat, chosen.dropped, old.named, notes)


def convert_files(paths: list[str], out: str | Path, *, weights: str | None = None) -> Json:
    """Convert old checkpoints into `out`/NAME.safetensors, one each; what `negmerge convert` prints.

    Files of the same name, from different folders, keep their folder's name in front. `weights` names the state dict
    to take from files that hold several. Returns
    `{"files": [{"path", "out", "tensors", "elements", "dropped", "named", "notes"}]}`: `named` are the classes that the
    pickle asked for and did not get, `notes` says what was done to names.
    """
    old = [Path(path) for path in paths]
    for path in old:  # what is wrong with the last is said before the first is written
        load_legacy(path, weights=weights)
    folder = make_folder(Path(out))
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
        conversion = load_legacy(path, weights=weights)
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
                "notes": list(conversion.notes),
            }
        )
    return {"files": files}


@dataclass
class _StateDict:
    """Tensors that belong together, what else is among them, and whether a trainer's usual name led there."""

    tensors: dict[str, Stored]
    dropped: list[str]
    usual: bool = False

    @property
    def size(self) -> str:
        elements = sum(math.prod(tensor.shape) for tensor in self.tensors.values())
        return f"{len(self.tensors):,} tensors, {elements:,} elements"


def _choose(found: dict[str, _StateDict], name: str | None) -> _StateDict:
    """The state dict of that name, or the only one; those under a trainer's usual names go before others."""
    if name is not None and name in found:
        return found[name]
    usual = {path: each for path, each in found.items() if each.usual} or found
    if name is None and len(usual) == 1:
        return next(iter(usual.values()))
    sizes = [f"{path or 'the file itself'} ({each.size})" for path, each in [*usual.items()][:8]]
    choice = " or ".join([*sizes, "…"] if len(usual) > 8 else sizes)
    if name is not None:
        raise CheckpointError(f"it has no state dict {shortened(name)}: leave --weights out, or choose {choice}.")
    raise CheckpointError(f"it holds {len(usual)} state dicts: choose with --weights {choice}.")


def _state_dicts(content: Any) -> dict[str, _StateDict]:
    """Every state dict and module in the file by its path, each object once; optimisers' are left out."""
    found: dict[str, _StateDict] = {}
    waiting: list[tuple[tuple[str, ...], Any, list[dict[str, Any]]]] = [((), content, [])]
    seen: set[int] = set()
    for parts, value, wrappers in waiting:  # grows while it is walked: what is near the top comes first
        if id(value) in seen or len(parts) > DEEPEST_WRAPPER:
            continue
        seen.add(id(value))
        gathered = _Gathered()
        if _is_module(value):
            gathered.module(value, "", 0)
        else:
            named = _named(value)
            if {"state", "param_groups"} <= named.keys():  # torch's optimisers
                continue
            tensors = {name: inner for name, inner in named.items() if isinstance(inner, Made) and _is_tensor(inner)}
            inside = {name: inner for name, inner in named.items() if name not in tensors and _holds(inner)}
            if not tensors or any(name in WRAPPERS for name in inside):
                waiting += [((*parts, name), inner, [*wrappers, named]) for name, inner in inside.items()]
                continue
            for name, inner in named.items():
                gathered.take(name, inner)
        if gathered.tensors:
            around = [
                f"{other[:LONGEST_NAME]} ({_kind(it)})"
                for part, wrapper in zip(parts, wrappers, strict=True)
                for other, it in wrapper.items()
                if other != part
            ]
            usual = any(part in WRAPPERS for part in parts)
            found[".".join(parts)] = _StateDict(gathered.tensors, [*around, *gathered.dropped], usual)
    return found


class _Gathered:
    """Tensors by name, and what else there was."""

    def __init__(self) -> None:
        self.tensors: dict[str, Stored] = {}
        self.dropped: list[str] = []
        self._letters = 0

    def take(self, name: str, value: Any) -> None:
        """Keep a tensor under its name; of another thing note what it is."""
        self._count(name)
        try:
            tensor = tensor_of(value)
        except CheckpointError as error:
            raise CheckpointError(f"{shortened(name)}: {error}") from None
        if tensor is None:
            self.dropped.append(f"{name} ({_kind(value)})")
        elif name in self.tensors:
            raise CheckpointError(f"{shortened(name)} is in it twice: rename one of the two.")
        else:
            self.tensors[name] = tensor

    def module(self, module: Made, prefix: str, depth: int) -> None:
        """A module's state dict: parameters and persistent buffers, its children's after its own."""
        if depth > DEEPEST:
            raise CheckpointError("its modules are nested without end: the file is damaged.")
        state = _named(_state(module))
        self._count(prefix, len(state))
        if isinstance(module.maker, Name) and module.maker.startswith(SCRIPTED):  # does not say what is a buffer
            own, children = {name: it for name, it in state.items() if isinstance(it, Made)}, state
        else:
            passing = _texts(state.get("_non_persistent_buffers_set"))
            own = _named(state.get("_parameters")) | _named(state.get("_buffers"))
            children = _named(state.get("_modules"))
            self.dropped += [f"{prefix}{name} ({_kind(own.pop(name))})" for name in [*own] if name in passing]
            self.dropped += [
                f"{prefix}{name[:LONGEST_NAME]} ({_kind(value)})"
                for name, value in state.items()
                if isinstance(value, Made) and not name.startswith("_")
            ]
        for name, value in own.items():
            if value is not None and not _is_module(value):
                self.take(prefix + name, value)
        for name, child in children.items():
            if _is_module(child):
                self.module(child, f"{prefix}{name}.", depth + 1)

    def _count(self, name: str, entries: int = 0) -> None:
        self._letters += len(name) + 100 + entries
        if len(name) > LONGEST_NAME or self._letters > MOST_LETTERS:
            raise CheckpointError("its names are longer, or its modules more, than any model's: the file is damaged.")


def _read(old: OldFile, tensors: dict[str, Stored]) -> dict[str, Tensor]:
    read: dict[str, Tensor] = {}
    room = MOST_TIMES * old.size
    for name, tensor in tensors.items():
        try:
            check_name(name)
            read[name] = old.read(tensor)
        except CheckpointError as error:
            raise CheckpointError(f"{shortened(name)}: {error}") from None
        room -= read[name].nbytes
        if room < 0:
            raise CheckpointError(f"its tensors show its numbers over {MOST_TIMES} times: save copies of them.")
    return read


def _named(value: Any) -> dict[str, Any]:
    """The entries of a dict, or of a class of that kind, by their names: text or whole numbers."""
    table = value.items if isinstance(value, Made) else value
    named: dict[str, Any] = {}
    for key, inner in table.pairs if isinstance(table, Table) else ():
        if type(key) is str or (type(key) is int and abs(key) < 2**63):
            name = str(key)
        elif isinstance(inner, Made) and _is_tensor(inner):
            raise CheckpointError(f"a tensor's name is a {_kind(key)}: make it text.")
        else:
            continue
        if name in named:
            raise CheckpointError(
                f"two entries would be called {shortened(name)}, one of them by {shortened(key)} as "
                f"{'a number' if type(key) is int else 'text'}: rename one."
            )
        named[name] = inner
    return named


def _texts(value: Any) -> set[str]:
    """The text in a set, of any version of pickle."""
    items = value.arguments[0] if isinstance(value, Made) and value.arguments else value
    return {item for item in items if isinstance(item, str)} if isinstance(items, list) else set()


def _is_tensor(value: Made) -> bool:
    return isinstance(value.maker, Name) and value.maker.startswith(TENSORS)


def _holds(value: Any) -> bool:
    """Whether a value may hold tensors: it is a dict or a module."""
    return isinstance(value, Table) or (isinstance(value, Made) and (bool(value.items) or _is_module(value)))


def _state(module: Made) -> Any:
    """Entries of an unpickled object's state: a dict, or a dict and what its slots hold."""
    state = module.state
    return state[0] if isinstance(state, tuple) and len(state) == 2 else state


def _is_module(value: Any) -> TypeGuard[Made]:
    if not isinstance(value, Made):
        return False
    if value.is_module is None:  # looked into once: a file can point at one thing from everywhere
        state = _state(value)
        keys = {key for key in state[::2] if isinstance(key, str)} if isinstance(state, Table) else set()
        scripted = isinstance(value.maker, Name) and value.maker.startswith(SCRIPTED)
        value.is_module = isinstance(state, Table) and (scripted or {"_parameters", "_modules"} <= keys)
    return value.is_module


def _kind(value: Any) -> str:
    """Kind of a part of the tree, in a word."""
    if not isinstance(value, Made):
        return "dict" if isinstance(value, Table) else type(value).__name__
    if _is_tensor(value):
        return "tensor"
    return value.maker[:LONGEST_NAME] if isinstance(value.maker, Name) else "what another object made"
