"""The command `basereward`. Heavy packages are imported only by the commands that need them: `--help` is immediate."""

from __future__ import annotations

from basereward.cli.main import main
from basereward.cli.parser import parse

__all__ = ["main", "parse"]
