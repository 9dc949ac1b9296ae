"""The last lines of a verb: how long it took, and what to type next."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from pathlib import Path
from subprocess import list2cmdline

from negmerge_kit.cli.clock import elapsed
from negmerge_kit.cli.options import seconds
from negmerge_kit.pools.pool import RECORD, Pool

Words = Sequence[object]
"""A command without `negmerge`, word by word."""


def print_end(*commands: Words) -> None:
    """Print how long the verb took and the commands that may come next; each one runs as it is printed."""
    print(f"took {seconds(elapsed())}")
    for words in commands:
        print(f"next: {command_line(words)}")


def command_line(words: Words) -> str:
    """Format the command for a shell; a path that begins with a dash is no flag.

    >>> command_line(["search", Path("-my pools/a"), "--keep", 0.9])
    "negmerge search './-my pools/a' --keep 0.9"
    """
    plain = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    line = ["negmerge", *plain]
    return list2cmdline(line) if os.name == "nt" else shlex.join(line)  # cmd.exe takes single quotes as they are


def same_flags(
    parser: argparse.ArgumentParser, options: argparse.Namespace, other: argparse.ArgumentParser
) -> list[object]:
    """Flags given here that another verb also takes, as words, so that the next command is about the same choice.

    >>> from negmerge_kit.cli.options import Parser
    >>> one, other = Parser("one", ""), Parser("other", "")
    >>> _ = one.add_argument("--keep"), one.add_argument("--test", action="store_true"), other.add_argument("--keep")
    >>> same_flags(one, one.parse_args(["--keep", "0.9", "--test"]), other)
    ['--keep', '0.9']
    >>> same_flags(one, one.parse_args(["--keep=-2"]), other)
    ['--keep=-2']
    """
    known = {flag for action in other._actions for flag in action.option_strings}
    words: list[object] = []
    for action in parser._actions:
        value = getattr(options, action.dest, action.default)
        if not known.intersection(action.option_strings) or value == action.default:
            continue
        flag = action.option_strings[0]
        if action.nargs != 0:
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, value]
        elif value == action.const:  # of flags that share a destination, the one that was given
            words.append(flag)
    return words


def unlearned_file(pool: Pool | None = None, *, taken: Collection[Path] = ()) -> Path:
    """A name for unlearned weights, here, of a file that is neither there nor taken."""
    stem = f"{pool.name}-unlearned" if pool else "unlearned"
    paths = (Path(f"{stem}{'' if number == 1 else f'-{number}'}.safetensors") for number in count(1))
    return next(path for path in paths if path not in taken and not path.exists())


def evaluate_next(weights: Path, made_from: Iterable[str | Path]) -> Words:
    """Next command for written weights: score them on the pool that holds one of their sources, if any."""
    for source in map(Path, made_from):
        if (source.parent / RECORD).is_file():
            return ["evaluate", weights, "--scene", source.parent]
    return ["evaluate", "--help"]  # the images that belong to these files are unknown
