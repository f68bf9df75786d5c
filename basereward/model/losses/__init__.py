"""Losses turn scores and preferences into a number to minimise: one class a file, found by the file's name."""
