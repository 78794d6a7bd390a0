"""`python -m tunewise` is the command line."""

from tunewise.cli import main

main()
