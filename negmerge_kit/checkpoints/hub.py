"""Checkpoints by their Hub id: taken only at a pinned commit, sent as one commit with their card."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.checkpoints.shard_index import shard_names
from negmerge_kit.errors import CheckpointError

ID = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+)@([0-9a-f]{40})(?::(.+))?")
LOOSE = re.compile(r"hf:.*|[\w.-]+/[\w.-]+@[\w./-]+(?::.+)?")
WANTED = (
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "adapter_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_lora_weights.safetensors",
)
"""The names under which weights are published, in the order in which they are looked for."""
PATIENCE = 5.0
"""Seconds to wait for the Hub's answer about a repository."""


def is_hub_id(text: str) -> bool:
    """Whether a text means a Hub repository rather than a file.

    >>> is_hub_id("hf:owner/name@main"), is_hub_id("runs/a.safetensors")
    (True, False)
    """
    return LOOSE.fullmatch(text) is not None and not Path(text).exists()


def fetch(text: str) -> Path:
    """The local file of `hf:OWNER/NAME@COMMIT` or `hf:OWNER/NAME@COMMIT:FILE`, downloaded once.

    The commit is the whole 40-digit hash: a branch may change under an experiment. What the cache holds needs no
    network. Raises CheckpointError when the id is not pinned, has no safetensors file, or cannot be reached.
    """
    repository, revision, file = _parts(text)
    cached = _cached(repository, revision, (file,) if file else WANTED)
    return cached or _downloaded(repository, revision, file)


def fetch_companions(
    text: str, wanted: Callable[[str], bool], needed: Collection[str], cached: Collection[str]
) -> tuple[dict[str, Path], list[str]]:
    """The wanted files next to the weights of `hf:OWNER/NAME@COMMIT`, downloaded once, and the names of all that are.

    Where the Hub cannot be reached, what is `cached` has to do: nothing is downloaded if a `needed` one is among it.

    Raises:
        CheckpointError: if the Hub cannot be reached and no needed file is cached.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download

    unreachable: type[Exception] = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    repository, revision, file = _parts(text)
    home = PurePosixPath(file or ".").parent
    try:
        siblings = HfApi().model_info(repository, revision=revision, timeout=PATIENCE).siblings or ()
        near = [place for item in siblings if (place := PurePosixPath(item.rfilename)).parent == home]
        found = {
            place.name: Path(hf_hub_download(repository, str(place), revision=revision))
            for place in near
            if wanted(place.name)
        }
        return found, [place.name for place in near]
    except (OSError, unreachable) as error:
        if any(name in cached for name in needed):
            return {}, list(cached)
        raise CheckpointError(
            f"the config of {repository}@{revision[:8]} cannot be downloaded ({_first_line(error)}): "
            "check the network, or write the weights alone with --out FILE.safetensors."
        ) from error


def publish(files: Mapping[str, Path | bytes], repository: str, *, message: str, private: bool = False) -> str:
    """Send files to a Hub repository as one commit and return its address; the repository is made where it is not yet.

    `files` are the contents, or the local file, by their name in the repository; `private` counts for a new one.

    Raises:
        CheckpointError: for an id that is none, without a login, or where the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    check_repository(repository)
    unreachable: type[Exception] = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    try:
        api = HfApi()
        api.whoami()  # first, because it fails at once without a login or a network
        api.create_repo(repository, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        return str(api.create_commit(repository, operations, commit_message=message).commit_url)
    except errors.LocalTokenNotFoundError:
        raise CheckpointError(f"nothing was sent to {repository}: log in first with `hf auth login`.") from None
    except (OSError, unreachable, ValueError) as error:
        raise CheckpointError(
            f"nothing was sent to {repository} ({_first_line(error)}): "
            "check network, login and rights, or look at it with --dry-run."
        ) from error


def lay_out(files: Mapping[str, Path | bytes], repository: str, folder: Path | None) -> Path | None:
    """Check what `publish` would send and, if a folder is given, write it there.

    Raises:
        CheckpointError: for an id that is none, or a folder that cannot be written or holds something already.
    """
    check_repository(repository)
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = next(folder.iterdir(), None)
    except OSError as error:
        raise CheckpointError(f"cannot make {folder}: {error.strerror or error}. Choose another folder.") from error
    if taken is not None:
        raise CheckpointError(f"{folder} is not empty: choose another folder.")
    for name, content in files.items():
        with atomic_file(folder / name) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file)
    return folder


def check_repository(text: str) -> str:
    """The id itself, if it is one of a Hub repository: OWNER/NAME.

    >>> check_repository("owner/name")
    'owner/name'
    """
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        if text.count("/") != 1:
            raise errors.HFValidationError("no owner")
        validate_repo_id(text)
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"'{text}' is no repository id: write OWNER/NAME, such as me/clip-without-cars."
        ) from error
    return text


def _parts(text: str) -> tuple[str, str, str | None]:
    """Repository, commit and, if named, the file of a pinned id."""
    match = ID.fullmatch(text)
    if match is None:
        raise CheckpointError(f"{text} is not pinned: write hf:OWNER/NAME@COMMIT with the whole 40-digit commit hash.")
    return match[1], match[2], match[3]


def _cached(repository: str, revision: str, names: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            path = Path(found)
            if name.endswith(".index.json"):
                if not all((path.parent / shard).exists() for shard in shard_names(path)):
                    return None
            return path
    return None


def _downloaded(repository: str, revision: str, file: str | None) -> Path:
    from huggingface_hub import HfApi, errors, hf_hub_download

    unreachable: type[Exception] = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    where = f"{repository}@{revision[:8]}"
    try:
        # Asked first and with little patience: a download retries for half a minute where there is no network.
        listed = {
            item.rfilename
            for item in HfApi().model_info(repository, revision=revision, timeout=PATIENCE).siblings or ()
        }
        names = [name for name in ((file,) if file else WANTED) if name in listed]
        if not names:
            raise CheckpointError(
                f"{where} has no {file or 'safetensors weights'}: name one of its files as "
                f"hf:{repository}@{revision}:FILE."
            )
        path = Path(hf_hub_download(repository, names[0], revision=revision))
        if path.name.endswith(".index.json"):
            for shard in shard_names(path):
                hf_hub_download(repository, shard, revision=revision)
        elif path.name.startswith("adapter_model"):
            hf_hub_download(repository, "adapter_config.json", revision=revision)
    except (OSError, unreachable, errors.HFValidationError) as error:
        raise CheckpointError(
            f"{where} is not in the cache and cannot be downloaded ({_first_line(error)}): "
            "check id, commit and network, or give a local file."
        ) from error
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
