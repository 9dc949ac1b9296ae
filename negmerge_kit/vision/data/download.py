"""The files of a Hub repository: found in the local cache, or fetched, or one clear sentence at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from negmerge_kit.errors import SceneError

TIMEOUT = 5.0
"""Seconds before a Hub that does not answer is given up."""

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)")


def resolve(repo: str, revision: str | None, patterns: Sequence[str]) -> tuple[str, dict[str, int]]:
    """The commit that a revision stands for now, and the matching files with their bytes; asks the Hub.

    Raises:
        SceneError: no network, no such repository or revision, or one that wants a login.
    """
    from huggingface_hub import HfApi

    with _telling(repo, revision):
        told = HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT, files_metadata=True)
    return str(told.sha), {
        file.rfilename: file.size or 0
        for file in told.siblings or ()
        if not patterns or any(fnmatch(file.rfilename, pattern) for pattern in patterns)
    }


def bytes_missing(repo: str, commit: str, files: dict[str, int]) -> int:
    """How much of a repository's files is not in the local Hub cache."""
    from huggingface_hub import try_to_load_from_cache

    return sum(
        size
        for name, size in files.items()
        if not isinstance(try_to_load_from_cache(repo, name, repo_type="dataset", revision=commit), str)
    )


def local_files(repo: str, revision: str | None, patterns: Sequence[str]) -> Path | None:
    """The folder of a repository's files in the local Hub cache, if all that is wanted is there.

    Its name is the commit. The Hub's client knows what belongs to a snapshot that it fetched; of one that was copied, a
    missing shard of a numbered series, or a file that is not whole, counts as not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                local_files_only=True,
                allow_patterns=list(patterns) or None,
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    files = sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
    if not all(any(fnmatch(file, pattern) for file in files) for pattern in patterns):
        return None
    for file in files:
        if shard := _SHARD.fullmatch(file):
            before, _, count, after = shard.groups()
            if any(f"{before}-{number:05}-of-{count}{after}" not in files for number in range(int(count))):
                return None
    cut = any((folder.parents[1] / "blobs").glob("*.incomplete"))
    return folder if files and not cut else None


def download(repo: str, revision: str, patterns: Sequence[str]) -> Path:
    """Download what matches into the Hub's cache, going on where an earlier download stopped.

    Raises:
        SceneError: as `resolve`.
    """
    from huggingface_hub import snapshot_download

    with _telling(repo, revision):
        return Path(
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(patterns) or None,
                etag_timeout=TIMEOUT,
            )
        )


@contextmanager
def _telling(repo: str, revision: str | None) -> Iterator[None]:
    """Whatever goes wrong between here and the Hub is one sentence with its remedy."""
    from huggingface_hub import errors

    at = f"{repo}@{revision}" if revision else repo
    network: tuple[type[Exception], ...] = (OSError, getattr(errors, "HTTPError", OSError))
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise SceneError(
            f"{at} is not (wholly) in the local Hub cache and HF_HUB_OFFLINE is set: unset it and prepare "
            "the data once with a network, or copy the Hub cache of a machine that has them."
        ) from error
    except errors.GatedRepoError as error:
        raise SceneError(
            f"{at} wants a login: accept its terms on the Hub, then run `hf auth login` or set "
            "HF_TOKEN; or name a local copy, e.g. imagenet:/data/imagenet."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SceneError(f"{repo} has no revision {revision}: give a commit or a branch of it.") from error
    except errors.RepositoryNotFoundError as error:
        raise SceneError(
            f"there is no data set {repo} on the Hub, or it is private: check its name, or run `hf auth login`."
        ) from error
    except errors.HFValidationError as error:
        raise SceneError(f"{repo!r} is not a name on the Hub: give hf:OWNER/NAME[/CONFIG][@REVISION].") from error
    except network as error:
        raise SceneError(
            f"the Hub cannot be reached for {at} ({_first_line(error)}): check the network, or prepare "
            "the data from a local copy (NAME:PATH or folder:PATH)."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
