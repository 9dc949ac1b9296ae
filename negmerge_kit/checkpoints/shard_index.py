"""The index of a checkpoint in shards: which of its files holds which tensor."""

from __future__ import annotations

from pathlib import Path

from negmerge_kit.errors import CheckpointError
from negmerge_kit.safe_json import read_json

INDEX = ".safetensors.index.json"


def shard_names(index: Path) -> list[str]:
    """Return the files that an index names, in order.

    Raises:
        CheckpointError: as `weight_map`.
    """
    return sorted(set(weight_map(index).values()))


def weight_map(index: Path) -> dict[str, str]:
    """Return which file holds each tensor.

    Raises:
        CheckpointError: a file that is missing or is no index, or a shard that is not in the index's own folder.
    """
    try:
        table = read_json(index, {"weight_map?": {...: str}})
    except FileNotFoundError:
        raise CheckpointError(f"{index} does not exist: check the path.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}. Download it again.") from error
    shards: dict[str, str] = table.get("weight_map")
    if not shards:
        raise CheckpointError(f"{index} has no weight_map: it is no index of shards. Download it again.")
    for name in shards.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names a shard {name!r}: name .safetensors files in its own folder.")
    return shards
