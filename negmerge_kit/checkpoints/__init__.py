"""Weight files: the only code that opens them. Safetensors in, safetensors out; nothing is ever unpickled."""

from __future__ import annotations

from negmerge_kit.checkpoints.reader import Checkpoint, open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file

__all__ = ["Checkpoint", "open_checkpoint", "save_checkpoint", "sha256_file"]
