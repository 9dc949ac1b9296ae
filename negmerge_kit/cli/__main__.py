"""`python -m negmerge_kit.cli` is `negmerge`."""

import sys

from negmerge_kit.cli import main

sys.exit(main())
