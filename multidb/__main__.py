"""`python -m multidb`: the command line."""

from multidb.cli import main

main()
