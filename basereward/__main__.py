"""The command `basereward`, also as `python -m basereward`."""

import sys

from basereward.io.interrupts import Interrupts

interrupts = Interrupts().install()  # before all that takes time to import


def run() -> int:
    """Runs the command line of this process and returns its exit status."""
    try:
        with interrupts.stopping():
            from basereward.cli import main

            return main()
    except KeyboardInterrupt:  # while the command was imported
        sys.stderr.write("basereward: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(run())
