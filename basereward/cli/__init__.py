"""The command `basereward`. Nothing heavy is imported before it is needed, so that `--help` answers at once."""

from __future__ import annotations

from basereward.cli.arguments import parse
from basereward.cli.entry import main

__all__ = ["main", "parse"]
