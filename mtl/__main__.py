"""The command line as `python -m mtl`, with which studies start their runs."""

import sys

from mtl.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
