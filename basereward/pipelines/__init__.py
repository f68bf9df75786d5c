"""Pipelines: stages that annotate, train, select and evaluate, one after the other."""
