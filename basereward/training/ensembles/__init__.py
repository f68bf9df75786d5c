"""Ensembles of trained runs: their weights, their test, their run."""
