"""`python -m epg` is the command line."""

import sys
from pathlib import Path

# -m puts the current folder first, where a random.py of the user's would be taken for Python's;
# it stays where it is the folder of this package.
if not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != Path(__file__).parents[1]:
    del sys.path[0]

from epg.cli.app import main

main()
