"""Progress of long work: named phases with counts, as one bar on a terminal or in a notebook, else as plain lines.

Everything here goes to standard error. See `phases` for what code calls, and `displays` for what a user sees.
"""

from __future__ import annotations

from basereward.io.progress.phases import Phase, announce, begin, labelled, phase, reporting, track, write_line

__all__ = ["Phase", "announce", "begin", "labelled", "phase", "reporting", "track", "write_line"]
