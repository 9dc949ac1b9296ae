"""`python -m negmerge_kit.cli` is `negmerge`."""

from negmerge_kit.cli import run

run()
