"""`python -m vidssl`, for running from source."""

from .cli import main

main()
