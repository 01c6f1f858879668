"""`python -m deitsec`, the same as the command `deitsec`."""

import sys

from deitsec.cli import main

if __name__ == "__main__":
    sys.exit(main())
