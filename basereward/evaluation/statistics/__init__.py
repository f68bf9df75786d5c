"""Measures of benchmark outcomes with their intervals and baselines."""
