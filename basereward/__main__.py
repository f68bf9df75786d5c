"""The command `basereward`, also as `python -m basereward`."""

import sys

from basereward.io.interrupts import Interrupts

# Before the imports that take time: Ctrl-C during these would print a traceback.
interrupts = Interrupts().install()


def run() -> int:
    """Runs the command line of this process and returns its exit status, as `basereward.cli.main` does."""
    try:
        with interrupts.stopping():
            from basereward.cli import main

            return main()
    except KeyboardInterrupt:  # during the import; `main` handles its own
        sys.stderr.write("basereward: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(run())
