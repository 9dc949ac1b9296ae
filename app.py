"""`python app.py` is `negmerge demo`."""
from negmerge_kit.cli import main

raise SystemExit(main(["demo"]))
