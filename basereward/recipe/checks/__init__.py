"""Faults of a recipe, found without loading a model: types, ranges, targets."""
