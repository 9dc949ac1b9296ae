"""Which commit of a Hub repository is used: noted when the data are prepared, kept to afterwards.

    CACHE/hub/OWNER--NAME[--CONFIG].json        {"repo", "config", "revision", "classes", ...}

A data set that changes on the Hub must not change a result in silence. So the commit that `main` was at when the data
were first prepared is used from then on; asking for another one is refused, until the note is deleted on purpose.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from negmerge_kit.checkpoints.atomic import atomic_file
from negmerge_kit.errors import SceneError
from negmerge_kit.vision.data.cache import cache_folder

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pin:
    """One repository at one commit, with what was learnt of it: class names, columns and splits of its own."""

    repo: str
    config: str
    revision: str
    classes: tuple[str, ...]
    image: str
    label: str
    splits: tuple[str, ...]

    def write(self) -> Path:
        """Note it, whole or not at all."""
        path = pin_file(self.repo, self.config)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(asdict(self), indent=1).encode())
        return path


def pin_file(repo: str, config: str = "") -> Path:
    """Where the commit of a repository is noted.

    >>> pin_file("owner/name").name
    'owner--name.json'
    """
    return cache_folder() / "hub" / f"{'--'.join(part for part in (*repo.split('/'), config) if part)}.json"


def read_pin(repo: str, config: str = "") -> Pin | None:
    """What was noted of a repository, or None.

    Raises:
        SceneError: a note that cannot be read.
    """
    path = pin_file(repo, config)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Pin(**{**told, "classes": tuple(told["classes"]), "splits": tuple(told["splits"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SceneError(f"{path} cannot be read ({error}): delete it and prepare the data again.") from error


def check_pin(pin: Pin | None, wanted: str | None, text: str) -> None:
    """Refuse another commit than the one that was prepared.

    Raises:
        SceneError: naming both, and the file to delete.
    """
    if pin is not None and wanted is not None and pin.revision != wanted:
        raise SceneError(
            f"{text} was prepared at commit {pin.revision[:12]}, but {wanted[:12]} is asked for: results "
            f"of the two cannot be compared; delete {pin_file(pin.repo, pin.config)} to change it on "
            "purpose."
        )
