"""Mixtures of sources by weights, limits or repeats."""
