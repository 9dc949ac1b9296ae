"""Weight files: the only code that opens them. Safetensors in, safetensors out; nothing is ever unpickled.

Names load when they are used, so that `digests` can begin before torch is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
    from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file

_HOMES = {"Checkpoint": "reader", "open_checkpoint": "reader", "save_checkpoint": "writer", "sha256_file": "writer"}

__all__ = ["Checkpoint", "open_checkpoint", "save_checkpoint", "sha256_file"]


def __getattr__(name: str) -> Any:
    """Import a name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
