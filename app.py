"""`python app.py` is `negmerge demo`."""

import sys

from negmerge_kit.cli import main

raise SystemExit(main(["demo", *sys.argv[1:]]))
