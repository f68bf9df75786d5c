"""`python -m basereward` is the command `basereward`."""

from __future__ import annotations

import sys

from basereward.cli import main

if __name__ == "__main__":
    sys.exit(main())
