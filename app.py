"""`python app.py` is `negmerge demo`."""

import sys

from negmerge_kit.cli import run

run(["demo", *sys.argv[1:]])
