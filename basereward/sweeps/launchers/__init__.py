"""Launchers, one class per file: where the cells of a sweep run. A new file is found by its name."""
