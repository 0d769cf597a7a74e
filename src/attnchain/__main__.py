"""`python -m attnchain`."""

from attnchain.cli import main

main()
