#!/usr/bin/env python3
"""The toolkit's command line from a checkout; installed it is `run-mtl`."""

import sys

from mtl.cli import main

if __name__ == "__main__":
    sys.exit(main())
