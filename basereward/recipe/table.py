"""The former place of `basereward.errors.format_count`, until the reports import it from there."""

from __future__ import annotations

from basereward.errors import format_count as count

__all__ = ["count"]
