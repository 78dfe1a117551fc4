"""`python -m epg` is the command line."""

from epg.cli.app import main

main()
