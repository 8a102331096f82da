"""`python -m achilles_fleet`."""

import sys

from achilles_fleet.cli import main

if __name__ == "__main__":
    sys.exit(main())
