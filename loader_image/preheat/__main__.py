"""`python -m preheat` is the command `preheat`."""

from preheat.cli import main

main()
