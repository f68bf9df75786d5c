"""Losses map scores and preferences to a scalar to minimise: one class for each file, found by the file's name."""
