"""`python -m mtl` is the command line too; studies start their runs by it."""

import sys

from mtl.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
