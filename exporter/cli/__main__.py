"""`python -m zerospan.exporter.cli`: the same as `zerospan`, where nothing is installed."""

import sys

from zerospan.exporter.cli import main

if __name__ == "__main__":
    sys.exit(main())
