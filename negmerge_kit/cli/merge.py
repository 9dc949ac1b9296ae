"""`negmerge merge`: the files that are named are hashed while torch is imported, which takes longer than a gigabyte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from negmerge_kit.checkpoints.digests import Digests
from negmerge_kit.safe_json import is_plain_file

OUTPUTS = ("--out", "--delta-out")


def merge(arguments: list[str]) -> int:
    """Merge candidates' deltas and write the unlearned checkpoint, the delta, or both."""
    with Digests() as digests:
        digests.begin(_inputs(arguments))

        from negmerge_kit.cli import weight_files

        return weight_files.merge(arguments, digests)


def _inputs(words: list[str]) -> Iterator[Path]:
    """Files that this process will read and an output will name by digest; shards are read by their own jobs."""
    names = {word.split("=")[0] for word in words}
    if not names & {*OUTPUTS} or names & {"--executor", "-h", "--help"}:
        return
    for before, word in zip(["", *words], words, strict=False):
        if before not in OUTPUTS and word.endswith(".safetensors") and is_plain_file(Path(word)):
            yield Path(word)
