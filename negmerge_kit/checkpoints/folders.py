"""Output of a model: one file, or a folder that `from_pretrained` loads, with its base's small files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from negmerge_kit.checkpoints.atomic import atomic_file, atomic_folder
from negmerge_kit.checkpoints.hub import fetch_companions, is_hub_id
from negmerge_kit.checkpoints.overwrite_guard import check_outputs
from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.checkpoints.shard_index import INDEX
from negmerge_kit.checkpoints.writer import output_files, save_checkpoint
from negmerge_kit.errors import CheckpointError, NegmergeError
from negmerge_kit.safe_json import LARGEST, is_plain_file
from negmerge_kit.types import Items, Json

CONFIGS = ("config.json", "open_clip_config.json")
"""One of these makes a folder a model's."""
COMPANIONS = (
    *CONFIGS,
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template*",
    "*.model",  # sentencepiece
    "*.tiktoken",
)
"""What goes with the weights, by name."""
NEVER = (".py", ".safetensors", INDEX, ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
"""Code, which a loader would run, and other weights, which would be the base's."""


def is_companion(name: str) -> bool:
    """Whether a file of this name goes along with merged weights.

    >>> [name for name in ("config.json", "tokenizer.json", "tokenizer.py", "model.safetensors") if is_companion(name)]
    ['config.json', 'tokenizer.json']
    """
    return not name.endswith(NEVER) and any(fnmatchcase(name, pattern) for pattern in COMPANIONS)


@dataclass(frozen=True)
class Output:
    """Destination of a model like `like`: the file `path`, or, with companions, a folder of that name.

    `notes` say in one line each what goes there and what stays behind.
    """

    path: Path
    like: Checkpoint
    companions: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def check(self, inputs: Iterable[Path]) -> None:
        """Refuse the place before the work begins, as `check_output` and `check_folder` do."""
        if self.companions:
            check_folder(self.path, inputs)
        else:
            check_outputs(output_files(self.path, self.like), inputs)

    def save(self, items: Items, metadata: Json | None = None, complete: Callable[[], Json] | None = None) -> Path:
        """Write the tensors, as `save_checkpoint` does, and what goes with them; the path that opens them again.

        A folder is there when all of it is, or not at all; one that an earlier merge wrote stays until then.
        """
        if not self.companions:
            return save_checkpoint(self.path, items, like=self.like, metadata=metadata, complete=complete)
        self.like.raw_metadata.setdefault("format", "pt")  # transformers refuses weights that do not say so
        with atomic_folder(self.path) as folder:
            for companion in self.companions:
                with companion.open("rb") as source, atomic_file(folder / companion.name) as file:
                    shutil.copyfileobj(source, file)
            weights = folder / self._weights
            save_checkpoint(weights, items, like=self.like, metadata=metadata, complete=complete)
            check_folder(self.path, ())  # the merge may have taken hours: another file may have been made since
        return self.path

    @property
    def _weights(self) -> str:
        """The base's own name for its weights: loaders know model.safetensors, and diffusers' and open_clip's names."""
        return self.like.path.name.removesuffix(INDEX).removesuffix(".safetensors") + ".safetensors"


def plan_output(out: str | Path, base: str | Path, like: Checkpoint) -> Output:
    """Whether `--out` means a file or a folder, and what goes into that.

    It means a folder where the name has no .safetensors ending and the base has its config next to its weights.

    Raises:
        CheckpointError: if the base is on the Hub, and its small files are neither there to download nor in the cache.
    """
    out, home = Path(out), like.path.parent
    try:
        found = {file.name: file for file in sorted(home.iterdir())}
    except OSError:  # a file may be read where its folder may not be listed
        found = {}
    notes, names = [], list(found)
    wants_folder = out.suffix != ".safetensors"
    if wants_folder and is_hub_id(str(base)):
        downloaded, names = fetch_companions(str(base), is_companion, CONFIGS, found)
        found |= downloaded
        if not downloaded:
            notes.append(f"the Hub cannot be reached: {out} gets the small files that the cache holds.")
    whole = {name: file for name, file in found.items() if is_companion(name) and is_plain_file(file)}
    if not any(name in whole for name in CONFIGS):
        return Output(out, like)
    if not wants_folder:
        return Output(
            out,
            like,
            notes=(
                f"{out.name} has the weights alone: config and tokenizer are in {home}; "
                "--out FOLDER writes a folder with them.",
            ),
        )
    large = [name for name, file in whole.items() if file.stat().st_size > LARGEST]
    taken = tuple(file for name, file in whole.items() if name not in large)
    notes.append(f"{out} has the weights and, from the base, {', '.join(file.name for file in taken)}.")
    if code := [name for name in names if name.endswith(".py")]:
        notes.append(f"left out, because a loader would run it: {', '.join(code)}; copy it if you trust it.")
    if large:
        notes.append(f"left out, over {LARGEST >> 20} MB: {', '.join(large)}; copy it if the model needs it.")
    return Output(out, like, taken, tuple(notes))


def check_folder(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuse a folder that is read from, or that holds anything but what an earlier merge wrote; empty is no loss.

    Raises:
        CheckpointError: for such a folder, a file in its place, or no folder to make it in.

    >>> check_folder(Path("nowhere/model"), [])
    Traceback (most recent call last):
    negmerge_kit.errors.CheckpointError: cannot write nowhere/model: there is no folder nowhere. Make it first.
    """
    try:
        if not folder.parent.is_dir():
            raise CheckpointError(f"cannot write {folder}: there is no folder {folder.parent}. Make it first.")
        if not folder.exists():
            return
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} exists and is a file, so it stays: choose another name, or remove it first."
            )
        if any(folder.samefile(file.parent) for file in inputs):
            raise CheckpointError(f"{folder} is the folder of one of the inputs: choose another folder to write.")
        foreign = _foreign(folder)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}. Choose another name.") from error
    if foreign:
        raise CheckpointError(
            f"{folder} exists and holds {foreign}, which no merge wrote, so it stays: "
            "choose another name, or remove it first."
        )


def _foreign(folder: Path) -> str | None:
    """The name of something in a folder that no merge wrote."""
    names = sorted(file.name for file in folder.iterdir())
    if not names:
        return None
    try:
        found = open_checkpoint(folder)
    except (NegmergeError, ValueError):
        return names[0]
    ours = {file.name for file in (*found.files, *filter(None, [found.index]))}
    if not {"scale", "inputs"} <= found.metadata.keys() or "shapes" in found.metadata:
        return min(ours)
    return next(
        (name for name in names if name not in ours and not (is_companion(name) and is_plain_file(folder / name))), None
    )
