"""Makers write a checkpoint into a folder when a recipe has none to load: one function a file."""
