"""`python -m runwire.cli`."""

from runwire.cli import main

main()
