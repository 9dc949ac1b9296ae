"""The command line: a verb list in plain text, each verb's parser built when it is called."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

from negmerge_kit.cli import clock  # first: it counts from its import on
from negmerge_kit.cli.signals import Ending, exit_code, heeding
from negmerge_kit.cli.terminal import plain_terminal
from negmerge_kit.sweeps.malloc import keep_freed_memory

# verb -> (module with a function of the verb's name, one line for the list)
VERBS = {
    "demo": ("demo", "serve the app on the embedded scene, or on your pool"),
    "pool": ("pool", "build | show | verify a pool of fine-tuned candidates"),
    "sweep": ("sweep", "fine-tune a grid of candidates of any scene, here or on a cluster"),
    "search": ("unlearn", "find the scale that forgets most while retention stays at its floor"),
    "unlearn": ("unlearn", "search, merge and write the unlearned checkpoint"),
    "compare": ("compare", "hold merge rules against each other at equal retention"),
    "audit": ("audit", "probe an unlearned model for what is left of the forget set"),
    "evaluate": ("unlearn", "score a checkpoint on a scene"),
    "data": ("data", "list | prepare | verify image data, named or your own"),
    "forget": ("forget", "all of it for data of your own: sweep, search, unlearn, card"),
    "merge": ("merge", "merge candidates' deltas and write an unlearned checkpoint"),
    "agreement": ("agreement", "on how many elements the candidates' signs agree"),
    "apply": ("weight_files", "subtract a merged delta from the base, at any scale"),
    "undo": ("weight_files", "give the base back, bit for bit"),
    "convert": ("weight_files", "turn old pickled checkpoints into safetensors, executing nothing"),
    "verify": ("card", "recompute what an unlearning card claims"),
    "push": ("card", "send unlearned weights and their card to the Hub"),
    "reproduce": ("reproduce", "the paper's table, measured next to the published one"),
}

# verb that is gone -> what to type instead
GONE = {"bench": "run `python -m benchmarks merge` in a checkout of the repository."}


def usage() -> str:
    """The verb list that `negmerge --help` prints."""
    lines = [f"  {verb:10} {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(
        [
            "usage: negmerge VERB [OPTIONS]      negmerge VERB --help lists a verb's options",
            "",
            *lines,
            "",
            "Start with `negmerge demo`. Exit codes: 0 done, 2 wrong input or nothing feasible, 1 a bug,",
            "130 stopped by Ctrl-C, 143 by SIGTERM; what was finished is kept.",
        ]
    )


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one verb as the command `negmerge`, and end the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    ending = Ending(words[0] if words else "")
    ending.watch()
    keep_freed_memory()
    sys.exit(main(words, ending))


def main(arguments: Sequence[str] | None = None, ending: Ending | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 2 wrong input or infeasible, 1 a bug, 130 and 143 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if ending is None:  # called from a program that goes on afterwards
        clock.begin()
    for stream in (sys.stdout, sys.stderr):  # a folder's name need not be UTF-8, and must not end a verb
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with plain_terminal():
        return _main(words, ending)


def _main(words: list[str], ending: Ending | None) -> int:
    from negmerge_kit.errors import NegmergeError

    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from negmerge_kit import __version__

        print(__version__)
        return 0
    verb, *rest = words
    if verb in GONE:
        print(f"negmerge {verb} is gone: {GONE[verb]}", file=sys.stderr)
        return 2
    if verb not in VERBS:
        print(f"negmerge: there is no verb '{verb}': choose among {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    try:
        with heeding(signal.SIGTERM):
            code = getattr(import_module(f"negmerge_kit.cli.{VERBS[verb][0]}"), verb)(rest)
        return int(code)
    except NegmergeError as error:
        print(f"negmerge {verb}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("negmerge_kit"):
            raise
        print(
            f"negmerge {verb}: {error.name} is not installed: `pip install 'negmerge_kit[all]'` brings it.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as interrupt:
        return (ending or Ending(verb)).say(exit_code(interrupt))
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is wrong, and nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, RuntimeError) as error:  # a path that is too long, links in a circle, a folder that is closed
        if not (path := _unusable(error)):
            raise
        print(f"negmerge {verb}: {path}. Check the path.", file=sys.stderr)
        return 2


def _unusable(error: OSError | RuntimeError) -> str | None:
    """Sentence about the path that an error names; None for an error of another kind, which is a bug."""
    from negmerge_kit.safe_json import shortened

    if isinstance(error, OSError):
        return f"{shortened(str(error.filename))} cannot be used: {error.strerror}" if error.filename else None
    text = str(error)  # Path.resolve, before Python 3.13
    return text if text.startswith("Symlink loop") and "\n" not in text else None
