"""`python -m epg` is the command line."""

from epg.cli import main

main()
