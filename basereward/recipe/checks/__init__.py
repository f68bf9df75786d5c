"""Checks of a recipe that import and load nothing: types, ranges, and the arguments of targets."""
